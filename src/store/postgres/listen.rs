//! Hearing of events that were written, here or by another runtime: `LISTEN` (PostgreSQL documentation, "LISTEN").
//!
//! A notice is only a hint to look: one that is lost, with a connection or a server, is made up for by looking from time to
//! time. Blocks are numbered before they are committed, so one of a lower number may appear after one of a higher: whoever
//! goes by numbers asks for [`settled`], up to which there is nothing to come.

use super::batch::NUMBERING;
use super::link::{Link, failed};
use crate::types::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_postgres::AsyncMessage;

/// How long a look waits for the next one when no notice comes.
const LOOK: Duration = Duration::from_secs(5);
/// How long it waits when one came: more are coming.
const GATHER: Duration = Duration::from_millis(5);
/// How long connecting anew waits after it failed; doubled each time, from the first of these up to the second.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];

/// See the module's head.
#[derive(Clone, Default)]
pub struct Notices {
    came: Arc<Notify>,
    listens: Arc<AtomicBool>,
}

impl Notices {
    /// Something was written.
    pub fn came(&self) {
        self.came.notify_waiters();
    }

    /// Waits until there is a block of events behind `after`, and answers the number up to which every block is there. None:
    /// answers at once.
    pub async fn tail(&self, link: &Arc<Link>, after: Option<i64>) -> Result<i64> {
        let Some(after) = after else { return settled(link).await };
        if !self.listens.swap(true, Ordering::AcqRel) {
            let (notices, link_of_task) = (self.clone(), Arc::downgrade(link));
            link.spawn(async move {
                let mut delay = RETRY[0];
                while let Some(link) = link_of_task.upgrade() {
                    match notices.listen(link).await {
                        // It was connected; whatever came meanwhile was not heard.
                        Ok(()) => delay = RETRY[0],
                        Err(error) => tracing::warn!("events of other runtimes are not heard of: {error}"),
                    }
                    notices.came();
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY[1]);
                }
            });
        }
        loop {
            let came = self.came.notified();
            if newest(link).await? > after {
                let settled = settled(link).await?;
                if settled > after {
                    return Ok(settled);
                }
            }
            if tokio::time::timeout(LOOK, came).await.is_ok() {
                tokio::time::sleep(GATHER).await;
            }
        }
    }

    /// Hears until the connection breaks.
    async fn listen(&self, link: Arc<Link>) -> Result<()> {
        let address = link.address();
        // The task must not keep the link.
        drop(link);
        let (client, mut connection) =
            address.config.connect(address.tls.clone()).await.map_err(|error| failed(&error))?;
        let hear = async {
            while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(_) = message.map_err(|error| failed(&error))? {
                    self.came();
                }
            }
            Ok(())
        };
        let ask = async {
            client.batch_execute("LISTEN par_events").await.map_err(|error| failed(&error))?;
            // From here on nothing is missed; what came before is looked for.
            self.came();
            std::future::pending().await
        };
        tokio::select! {
            heard = hear => heard,
            asked = ask => asked,
        }
    }
}

/// The number of the newest block.
async fn newest(link: &Link) -> Result<i64> {
    let client = link.client().await?;
    let read = async {
        let query = client.prepare_cached("SELECT coalesce(max(id), 0) FROM events").await?;
        client.query_one(&query, &[]).await
    };
    read.await.map(|row| row.get(0)).map_err(|error| failed(&error))
}

/// The number up to which every block that there will ever be is there.
async fn settled(link: &Link) -> Result<i64> {
    let mut client = link.client().await?;
    let read = async {
        let transaction = client.transaction().await?;
        // Those who number blocks have it together; when nobody has, all that were numbered are there, or never will be.
        transaction.execute(&format!("SELECT pg_advisory_xact_lock({NUMBERING})"), &[]).await?;
        // Not the largest there is: that may have gone, being too old.
        let numbered = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('events', 'id')::regclass), 0)";
        let row = transaction.query_one(numbered, &[]).await?;
        transaction.commit().await?;
        Ok(row.get(0))
    };
    read.await.map_err(|error| failed(&error))
}
