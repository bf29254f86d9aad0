//! An answer on its way: from a connection, which may be recorded, or from a cassette.

use super::replay::{Played, Take};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// See the module's head.
pub struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Body,
}

enum Body {
    Connection {
        response: reqwest::Response,
        take: Option<Box<Take>>,
    },
    Cassette(Played),
    /// What was read to its end already.
    Read(Option<Bytes>),
}

/// The end of an answer that was none.
pub enum Broken {
    /// The connection broke.
    Connection(reqwest::Error),
    /// It broke when it was recorded.
    Recorded,
}

impl Reply {
    /// What comes from a connection, and where it is written down.
    pub fn from_connection(mut response: reqwest::Response, mut take: Option<Box<Take>>) -> Self {
        let status = response.status();
        // Taken out, since they would keep the buffer they were read into for as long as the stream lasts.
        let headers = std::mem::take(response.headers_mut());
        if let Some(take) = &mut take {
            take.head(status, &headers);
        }
        Self { status, headers, body: Body::Connection { response, take } }
    }

    /// What was recorded.
    pub fn from_cassette(mut played: Played) -> Self {
        Self { status: played.status, headers: std::mem::take(&mut played.headers), body: Body::Cassette(played) }
    }

    /// What was read to its end, to be read again.
    pub fn from_body(body: Vec<u8>) -> Self {
        Self { status: StatusCode::OK, headers: HeaderMap::new(), body: Body::Read(Some(body.into())) }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Takes its headers out.
    pub fn take_headers(&mut self) -> HeaderMap {
        std::mem::take(&mut self.headers)
    }

    /// More of the body; none at its end. Cancel safe.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        match &mut self.body {
            Body::Connection { response, take } => {
                let read = response.chunk().await;
                if let Some(take) = take {
                    match &read {
                        Ok(Some(chunk)) => take.piece(chunk),
                        Ok(None) => take.end(true),
                        Err(_) => take.end(false),
                    }
                }
                read.map_err(Broken::Connection)
            }
            Body::Cassette(played) => played.piece().await.map_err(|()| Broken::Recorded),
            Body::Read(body) => Ok(body.take()),
        }
    }
}
