//! Looking after what is kept: letters that nobody took, checks, copies, what is too old, and the second tier.

use super::{
    Cutoffs, DeadLetter, Durable, ForwardInfo, Item, Listed, Page, Problem, Pruned, Store, StoreSize, forward,
};
use crate::types::Result;
use std::path::PathBuf;
use std::time::Duration;

impl Store {
    /// Events that could not be delivered, oldest first.
    pub async fn dead_letters(&self, page: Page) -> Result<Listed<DeadLetter>> {
        let Durable { backend, writer, .. } = self.durable()?;
        writer.flush(false).await?;
        backend.dead_letters(page).await
    }

    /// Keeps an event that could not be delivered. False where nothing is kept, or more waits to be written than may: it is
    /// lost then, and whoever lost it counts it.
    pub fn keep_dead_letter(&self, letter: DeadLetter) -> bool {
        let durable = self.durable.as_ref().filter(|durable| durable.writer.has_room());
        if let Some(Durable { writer, .. }) = durable {
            writer.push(Item::DeadLetter(Box::new(letter)));
        }
        durable.is_some()
    }

    /// Completes when more may wait to be written.
    pub async fn room(&self) {
        if let Some(Durable { writer, .. }) = &self.durable {
            writer.room().await;
        }
    }

    /// Removes dead letters, once they were delivered.
    pub async fn remove_dead_letters(&self, ids: Vec<i64>) -> Result<u64> {
        self.durable()?.writer.run(move |backend| backend.remove_dead_letters(&ids)).await
    }

    /// Looks for whatever is wrong with what is stored.
    pub async fn verify(&self) -> Result<Vec<Problem>> {
        let Durable { backend, writer, .. } = self.durable()?;
        match writer.flush(false).await {
            // What is wrong with the file is what is asked for.
            Err(error) if error.code() == Some("store_replaced") => {}
            flushed => flushed?,
        }
        backend.verify().await
    }

    /// Copies the whole database into a new file while it is in use.
    pub async fn backup(&self, to: PathBuf) -> Result<()> {
        let writer = &self.durable()?.writer;
        writer.flush(false).await?;
        writer.run(move |backend| backend.backup(&to)).await
    }

    /// Removes all that is too old, now.
    pub async fn prune(&self, cutoffs: Cutoffs) -> Result<Pruned> {
        let writer = &self.durable()?.writer;
        writer.flush(false).await?;
        let mut all = Pruned::default();
        loop {
            // Little by little: others write between.
            let pruned = writer.run(move |backend| backend.prune(&cutoffs)).await?;
            if !pruned.any() {
                return Ok(all);
            }
            all += pruned;
        }
    }

    /// What is too old by the configuration.
    pub fn cutoffs(&self) -> Result<Cutoffs> {
        Ok(self.durable()?.writer.cutoffs())
    }

    /// Ships all that was kept until now, and waits until that is done.
    pub async fn forward(&self, time: Duration) -> Result<ForwardInfo> {
        let Durable { writer, forwarder, .. } = self.durable()?;
        let forwarder = forwarder.as_ref().ok_or_else(forward::not_configured)?;
        writer.flush(false).await?;
        forwarder.ship_now(time).await?;
        forwarder.info(writer.cutoffs().max_bytes)
    }

    /// Puts what was forwarded of a database, `source` if there are several, into this one, which is empty: all of it, or
    /// nothing. Nothing else is written meanwhile.
    #[cfg(feature = "object-store")]
    pub async fn restore(&self, from: &crate::config::Archive, source: Option<&str>) -> Result<super::Restored> {
        use crate::types::{Error, Status};
        let Durable { writer, local, tls, .. } = self.durable()?;
        let local = local.as_ref().ok_or_else(|| {
            Error::new(Status::Unsupported, "an archive is read into an SQLite database")
                .with_hint("configure \"sqlite:<file>\" with a file that is not there yet")
        })?;
        writer.flush(false).await?;
        forward::restore::restore(local, writer, from, source, *tls).await
    }

    /// How much is stored.
    pub async fn size(&self) -> Result<StoreSize> {
        let Durable { backend, writer, .. } = self.durable()?;
        writer.flush(false).await?;
        backend.size().await
    }
}
