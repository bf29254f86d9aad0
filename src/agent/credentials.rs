//! Keys that the host gives when they are needed: a `credential_request` with a token, answered by `par_tool_complete` with
//! the key as a JSON string. Nothing keeps or logs the answer.

use crate::events::Emitter;
use crate::llm::Credentials;
use crate::tools::{HostAnswer, HostDesk, HostSays};
use crate::types::{Error, EventBody, Result, Status, millis};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long the host has.
const LIMIT: Duration = Duration::from_secs(30);

/// Asks the host of one run.
pub struct HostCredentials<'a> {
    /// The run's events.
    pub emitter: &'a Emitter,
    /// The way to the host.
    pub desk: &'a Arc<HostDesk>,
}

impl Credentials for HostCredentials<'_> {
    fn ask<'a>(&'a self, name: &'a str, provider: &'a str) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            let failed = |why: String| {
                Error::new(Status::Auth, format!("the host gave no key {name:?} for the provider {provider:?}: {why}"))
                    .with_code("no_credential")
                    .with_hint("answer the credential_request with par_tool_complete and the key as a JSON string")
            };
            let mut host = self.desk.open();
            let token = host.token();
            let deadline_ms = millis(LIMIT);
            let work = EventBody::CredentialRequest { token, name, provider, deadline_ms };
            if !self.emitter.hand_over(self.desk.callback(), self.desk.inbox(), token, &work) {
                return Err(failed("nobody is there".into()));
            }
            let wait = async {
                loop {
                    match host.next().await {
                        HostSays::Progress(_) => {}
                        HostSays::Answer(answer) => return answer,
                    }
                }
            };
            match timeout(LIMIT, wait).await {
                Ok(HostAnswer::Complete(key)) => {
                    serde_json::from_str(key.get()).map_err(|_| failed("the answer is no string".into()))
                }
                Ok(HostAnswer::Fail(failure)) => Err(failed(failure.message)),
                Err(_) => Err(failed(format!("it did not answer within {} s", LIMIT.as_secs()))),
            }
        })
    }
}
