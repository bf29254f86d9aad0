//! `FakeServer`: HTTP/1.1 on a port of its own, on a thread of its own, so blocking and async tests use it alike. It
//! keeps connections alive, records what it was asked, and stops when dropped.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::reply::{After, Framing, Reply, Step};

/// What a client sent.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    pub bytes: Bytes,
    /// `bytes` as JSON; null when they are none.
    pub body: Value,
    /// Which connection it came on, from 0: equal numbers mean the connection was reused.
    pub connection: usize,
    pub received_at: Instant,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

type Handler = Box<dyn Fn(&Request, usize) -> Reply + Send + Sync>;

enum Script {
    Replies(Mutex<VecDeque<Reply>>),
    Handler(Handler),
}

impl Script {
    fn reply(&self, request: &Request, n: usize) -> Reply {
        match self {
            Self::Handler(handler) => handler(request, n),
            Self::Replies(replies) => locked(replies).pop_front().unwrap_or_else(|| {
                let message =
                    format!("FakeServer: no reply was scripted for request {n} ({} {})", request.method, request.path);
                Reply::status(400).json_body(&json!({"error": {"message": message, "type": "unscripted"}}))
            }),
        }
    }

    /// Takes the next reply if it is to be no reply at all.
    fn refuses_connection(&self) -> bool {
        let Self::Replies(replies) = self else { return false };
        locked(replies).pop_front_if(|reply| reply.refuses).is_some()
    }
}

struct Shared {
    script: Script,
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    abandoned: AtomicUsize,
}

/// See the module's page.
pub struct FakeServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeServer {
    /// Answers the nth request with the nth reply, and any further one with a 400 that says so.
    pub fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::serve(Script::Replies(Mutex::new(replies.into_iter().collect())))
    }

    /// Answers request `n` (from 0) with what the function makes of it.
    pub fn with(handler: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(Script::Handler(Box::new(handler)))
    }

    fn serve(script: Script) -> Self {
        let shared = Arc::new(Shared {
            script,
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let (stop, stopped) = oneshot::channel();
        let serving = shared.clone();
        let thread = std::thread::Builder::new()
            .name("fake-server".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async move {
                    tokio::select! { _ = stopped => {}, _ = accept(listener, serving) => {} }
                });
            })
            .expect("a thread");
        Self { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As a provider's `base_url`: `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The bare host, for APIs whose paths begin there.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub fn requests(&self) -> Vec<Request> {
        locked(&self.shared.requests).clone()
    }

    /// How many connections were accepted, refused ones included.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// How many replies a client did not stay for: what a cancelled run must cause.
    pub fn abandoned(&self) -> usize {
        self.shared.abandoned.load(SeqCst)
    }

    /// Blocks until the condition holds, and panics after ten seconds without it. It blocks the thread: a client that lives
    /// on the test's own current-thread runtime stands still meanwhile.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition(self) {
            assert!(Instant::now() < deadline, "FakeServer: waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let mut conversations = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await?;
        let number = shared.connections.fetch_add(1, SeqCst);
        if !shared.script.refuses_connection() {
            conversations.spawn(converse(socket, number, shared.clone()));
        }
    }
}

/// One connection: request, reply, and again for as long as both sides keep it.
async fn converse(mut socket: TcpStream, connection: usize, shared: Arc<Shared>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut unread = Vec::new();
    while let Some(request) = read_request(&mut socket, &mut unread, connection).await? {
        let n = {
            let mut requests = locked(&shared.requests);
            requests.push(request.clone());
            requests.len() - 1
        };
        let reply = shared.script.reply(&request, n);
        let (mut from_client, mut to_client) = socket.split();
        let outcome = tokio::select! {
            outcome = send(&mut to_client, &reply) => outcome,
            () = hung_up(&mut from_client) => Err(io::ErrorKind::ConnectionAborted.into()),
        };
        match outcome {
            Ok(Ending::Complete) if reply.after == After::KeepAlive && reply.framing != Framing::Close => {}
            Ok(Ending::Complete | Ending::Cut) => return socket.shutdown().await,
            Ok(Ending::Reset) => {
                tokio::time::sleep(Duration::from_millis(20)).await; // what was sent arrives before the reset overtakes it
                return socket.set_zero_linger();
            }
            Err(_) => {
                shared.abandoned.fetch_add(1, SeqCst);
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Resolves when the client closes while a reply is under way; a request sent ahead is not that.
async fn hung_up(from_client: &mut ReadHalf<'_>) {
    if from_client.peek(&mut [0]).await.is_ok_and(|n| n > 0) {
        std::future::pending().await
    }
}

async fn read_request(socket: &mut TcpStream, unread: &mut Vec<u8>, connection: usize) -> io::Result<Option<Request>> {
    let head_end = loop {
        if let Some(at) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if socket.read_buf(unread).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&unread[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    while unread.len() < head_end + length {
        if socket.read_buf(unread).await? == 0 {
            return Ok(None);
        }
    }
    let bytes: Bytes = unread.drain(..head_end + length).skip(head_end).collect();
    Ok(Some(Request {
        method: first.next().unwrap_or_default(),
        path: first.next().unwrap_or_default(),
        headers,
        body: serde_json::from_slice(&bytes).unwrap_or_default(),
        bytes,
        connection,
        received_at: Instant::now(),
    }))
}

enum Ending {
    Complete,
    Cut,
    Reset,
}

async fn send(to_client: &mut WriteHalf<'_>, reply: &Reply) -> io::Result<Ending> {
    let (before, per_line) = reply.head_pauses;
    tokio::time::sleep(before).await;
    if !reply.raw {
        for line in head_of(reply).split_inclusive("\r\n") {
            to_client.write_all(line.as_bytes()).await?;
            if !per_line.is_zero() {
                tokio::time::sleep(per_line).await;
            }
        }
    }
    let chunked = reply.framing == Framing::Chunked;
    for step in &reply.steps {
        match step {
            Step::Send(bytes) => write_piece(to_client, bytes, chunked).await?,
            Step::Pause(pause) => tokio::time::sleep(*pause).await,
            Step::Repeat(bytes, times) => {
                let mut left = times.unwrap_or(u64::MAX);
                let batch = bytes.repeat((16 * 1024 / bytes.len().max(1)).clamp(1, left as usize));
                while left > 0 {
                    let now = left.min((batch.len() / bytes.len().max(1)) as u64);
                    write_piece(to_client, &batch[..now as usize * bytes.len()], chunked).await?;
                    left -= now;
                }
            }
            Step::Cut { reset: true } => return Ok(Ending::Reset),
            Step::Cut { reset: false } => return Ok(Ending::Cut),
            Step::Stall => std::future::pending().await,
        }
    }
    if chunked {
        to_client.write_all(b"0\r\n\r\n").await?;
    }
    Ok(Ending::Complete)
}

fn head_of(reply: &Reply) -> String {
    let reason =
        http::StatusCode::from_u16(reply.status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Unknown");
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", reply.status);
    let mut line = |name: &str, value: &str| {
        let _ = write!(head, "{name}: {value}\r\n");
    };
    reply.headers.iter().for_each(|(name, value)| line(name, value));
    let says_length = reply.headers.iter().any(|(name, _)| name == "content-length");
    match reply.framing {
        Framing::Chunked => line("transfer-encoding", "chunked"),
        Framing::Length if !says_length => line("content-length", &length_of(&reply.steps).to_string()),
        Framing::Length | Framing::Close => {}
    }
    if reply.after == After::Close || reply.framing == Framing::Close {
        line("connection", "close");
    }
    head + "\r\n"
}

fn length_of(steps: &[Step]) -> u64 {
    steps
        .iter()
        .map(|step| match step {
            Step::Send(bytes) => bytes.len() as u64,
            Step::Repeat(bytes, times) => bytes.len() as u64 * times.unwrap_or(0),
            _ => 0,
        })
        .sum()
}

/// A piece of the body, and a moment for the client to see it alone. An empty HTTP chunk would end the body.
async fn write_piece(to_client: &mut WriteHalf<'_>, bytes: &[u8], chunked: bool) -> io::Result<()> {
    if !chunked {
        to_client.write_all(bytes).await?;
    } else if !bytes.is_empty() {
        let framed = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        to_client.write_all(&framed).await?;
    }
    tokio::task::yield_now().await;
    Ok(())
}
