//! The model server of the benchmarks: OpenAI-compatible chat completions from one thread and one epoll, with replies
//! made once and sent in one write, so that it is never what is measured.
//!
//! It prints its port, and ends when its standard input does. The model's name says what it does:
//!
//! | model            | reply                                                                                    |
//! |------------------|------------------------------------------------------------------------------------------|
//! | `text`           | a short text: JSON, or SSE with one text chunk when the request says `"stream":true`     |
//! | `tools-RxC`      | C parallel calls of `add` in each of R rounds (counted by tool messages), then the text  |
//! | `stream-N`       | N text chunks, all at once                                                               |
//! | `stream-MSms-N`  | N text chunks, one every MS milliseconds, each text `@` + the clock (monotonic ns)       |
//! | `idle-MSms`      | one text chunk, MS milliseconds of silence, the end                                      |

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;

/// The clients spread over a second's worth of ticks instead of all being due at once: multiples of the golden ratio.
const SPREAD: f64 = 0.618_033_988_749_895;
const LISTENER: u64 = u64::MAX;
const STDIN: u64 = u64::MAX - 1;

fn main() -> io::Result<()> {
    // SAFETY: plain integers; finer timers than the default 50 µs slack.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // SAFETY: a listening socket we own; std's backlog of 128 is too short for a thousand clients at once.
    unsafe { libc::listen(listener.as_raw_fd(), 4096) };
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?.port());
    io::stdout().flush()?;
    Server::new(listener)?.run()
}

/// What a model's name asks for.
#[derive(Clone, Copy)]
enum Behaviour {
    Text,
    Tools { rounds: usize, calls: usize },
    Burst { chunks: usize },
    Paced { chunks: usize, every_ns: u64 },
    Idle { ns: u64 },
}

fn behaviour(model: &str) -> Behaviour {
    let number = |text: &str| text.parse::<usize>().unwrap_or(1);
    let ms = |text: &str| number(text.trim_end_matches("ms")) as u64 * 1_000_000;
    match *model.split(['-', 'x']).collect::<Vec<_>>() {
        ["tools", rounds, calls] => Behaviour::Tools { rounds: number(rounds), calls: number(calls) },
        ["stream", chunks] => Behaviour::Burst { chunks: number(chunks) },
        ["stream", every, chunks] => Behaviour::Paced { chunks: number(chunks), every_ns: ms(every) },
        ["idle", silence] => Behaviour::Idle { ns: ms(silence) },
        _ => Behaviour::Text,
    }
}

/// A timed stream under way on a connection.
struct Stream {
    left: usize,
    every_ns: u64,
    due: u64,
}

struct Connection {
    fd: RawFd,
    received: Vec<u8>,
    /// What the socket would not take yet.
    unsent: Vec<u8>,
    wants_write: bool,
    stream: Option<Stream>,
}

struct Server {
    listener: TcpListener,
    epoll: RawFd,
    connections: HashMap<u64, Connection>,
    accepted: u64,
    streams_started: u64,
    timers: BinaryHeap<Reverse<(u64, u64)>>,
    replies: HashMap<(String, bool, usize), Rc<[u8]>>,
}

impl Server {
    fn new(listener: TcpListener) -> io::Result<Self> {
        // SAFETY: no memory is involved.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        let server = Self {
            epoll,
            connections: HashMap::new(),
            accepted: 0,
            streams_started: 0,
            timers: BinaryHeap::new(),
            replies: HashMap::new(),
            listener,
        };
        server.watch(libc::EPOLL_CTL_ADD, server.listener.as_raw_fd(), libc::EPOLLIN, LISTENER);
        server.watch(libc::EPOLL_CTL_ADD, 0, libc::EPOLLIN, STDIN);
        Ok(server)
    }

    fn watch(&self, operation: i32, fd: RawFd, events: i32, key: u64) {
        let mut event = libc::epoll_event { events: events as u32, u64: key };
        // SAFETY: `event` outlives the call. A regular file as stdin is refused, and then never reports an end: fine.
        unsafe { libc::epoll_ctl(self.epoll, operation, fd, &mut event) };
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        loop {
            let timeout = self.timers.peek().map(|Reverse((due, _))| {
                let wait = due.saturating_sub(now_ns());
                libc::timespec { tv_sec: (wait / 1_000_000_000) as i64, tv_nsec: (wait % 1_000_000_000) as i64 }
            });
            let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            // SAFETY: the buffers live across the call and their length is given; nanosecond timeouts need `pwait2`.
            let ready = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    self.epoll,
                    events.as_mut_ptr(),
                    256,
                    timeout,
                    std::ptr::null::<u8>(),
                    0,
                )
            };
            for event in &events[..ready.max(0) as usize] {
                match event.u64 {
                    LISTENER => self.accept(),
                    STDIN => return Ok(()),
                    key => self.serve(key, event.events as i32),
                }
            }
            self.tick();
        }
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            let _ = socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true));
            let fd = std::os::fd::IntoRawFd::into_raw_fd(socket);
            let key = self.accepted;
            self.accepted += 1;
            self.watch(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN, key);
            let connection =
                Connection { fd, received: Vec::new(), unsent: Vec::new(), wants_write: false, stream: None };
            self.connections.insert(key, connection);
        }
    }

    fn serve(&mut self, key: u64, events: i32) {
        if events & libc::EPOLLOUT != 0 {
            self.send(key, &[]);
        }
        if events & !libc::EPOLLOUT != 0 {
            let Some(connection) = self.connections.get_mut(&key) else { return };
            if !read_some(connection) {
                return self.drop_connection(key);
            }
            while let Some(request) = take_request(&mut self.connections.get_mut(&key)) {
                self.answer(key, &request);
            }
        }
    }

    fn drop_connection(&mut self, key: u64) {
        if let Some(connection) = self.connections.remove(&key) {
            // SAFETY: the descriptor is ours and forgotten here.
            unsafe { libc::close(connection.fd) };
        }
    }

    fn answer(&mut self, key: u64, request: &Request) {
        let behaviour = behaviour(&request.model);
        let (chunks, every_ns, first_in) = match behaviour {
            Behaviour::Paced { chunks, every_ns } => {
                self.streams_started += 1;
                let phase = (self.streams_started as f64 * SPREAD).fract();
                (chunks, every_ns, (every_ns as f64 * phase) as u64)
            }
            Behaviour::Idle { ns } => (1, ns, ns),
            _ => {
                let tool_messages =
                    if matches!(behaviour, Behaviour::Tools { .. }) { request.tool_messages } else { 0 };
                let reply = self.replies.entry((request.model.clone(), request.stream, tool_messages));
                let reply =
                    reply.or_insert_with(|| whole_reply(behaviour, request.stream, tool_messages).into()).clone();
                return self.send(key, &reply);
            }
        };
        self.send(key, STREAM_HEAD);
        if matches!(behaviour, Behaviour::Idle { .. }) {
            self.send(key, &framed(&text_event("first ")));
        }
        let due = now_ns() + first_in;
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.stream = Some(Stream { left: chunks, every_ns, due });
            self.timers.push(Reverse((due, key)));
        }
    }

    /// Sends what is due. A client that does not read only makes its own backlog longer.
    fn tick(&mut self) {
        while let Some(&Reverse((due, key))) = self.timers.peek() {
            if due > now_ns() {
                return;
            }
            self.timers.pop();
            let Some(stream) = self.connections.get_mut(&key).and_then(|connection| connection.stream.as_mut()) else {
                continue;
            };
            stream.left -= 1;
            stream.due += stream.every_ns;
            let (left, next) = (stream.left, stream.due);
            self.send(key, &framed(&text_event(&format!("@{} ", now_ns()))));
            if left > 0 {
                self.timers.push(Reverse((next, key)));
            } else {
                self.send(key, &stream_end("stop"));
                if let Some(connection) = self.connections.get_mut(&key) {
                    connection.stream = None;
                }
            }
        }
    }

    fn send(&mut self, key: u64, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let taken = if connection.unsent.is_empty() { write_some(connection.fd, bytes) } else { Some(0) };
        let Some(taken) = taken else { return self.drop_connection(key) };
        connection.unsent.extend_from_slice(&bytes[taken..]);
        if bytes.is_empty() && !connection.unsent.is_empty() {
            match write_some(connection.fd, &connection.unsent) {
                Some(taken) => drop(connection.unsent.drain(..taken)),
                None => return self.drop_connection(key),
            }
        }
        let (fd, wants_write) = (connection.fd, !connection.unsent.is_empty());
        if wants_write != std::mem::replace(&mut connection.wants_write, wants_write) {
            let events = if wants_write { libc::EPOLLIN | libc::EPOLLOUT } else { libc::EPOLLIN };
            self.watch(libc::EPOLL_CTL_MOD, fd, events, key);
        }
    }
}

// ---- sockets

fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// One read; false when the client is gone. Level-triggered: what is left reports again.
fn read_some(connection: &mut Connection) -> bool {
    let received = &mut connection.received;
    received.reserve(16 * 1024);
    // SAFETY: the pointer and the length are the vector's spare room, and `set_len` covers only what was filled.
    unsafe {
        let room = received.capacity() - received.len();
        let n = libc::recv(connection.fd, received.as_mut_ptr().add(received.len()).cast(), room, 0);
        if n > 0 {
            received.set_len(received.len() + n as usize);
        }
        n > 0 || (n < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock)
    }
}

/// How much the socket took; `None` when the client is gone.
fn write_some(fd: RawFd, bytes: &[u8]) -> Option<usize> {
    if bytes.is_empty() {
        return Some(0);
    }
    // SAFETY: the slice is valid for its length.
    let n = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    match n {
        0.. => Some(n as usize),
        _ if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => Some(0),
        _ => None,
    }
}

// ---- requests

struct Request {
    model: String,
    stream: bool,
    tool_messages: usize,
}

/// The next complete request of a connection. The body is scanned, not parsed: keys are looked for as JSON writers
/// write them, with or without a space after the colon.
fn take_request(connection: &mut Option<&mut Connection>) -> Option<Request> {
    let received = &mut connection.as_mut()?.received;
    let head = find(received, b"\r\n\r\n")? + 4;
    let length = received[..head].split(|&byte| byte == b'\n').find_map(content_length).unwrap_or(0);
    let body = received.get(head..head + length)?;
    let model = value_of(body, b"\"model\":").and_then(|value| value.strip_prefix(b"\""));
    let model = model.and_then(|value| value.split(|&byte| byte == b'"').next()).unwrap_or_default();
    let request = Request {
        model: String::from_utf8_lossy(model).into_owned(),
        stream: value_of(body, b"\"stream\":").is_some_and(|value| value.starts_with(b"true")),
        tool_messages: memchr::memmem::find_iter(body, b"\"role\":\"tool\"").count()
            + memchr::memmem::find_iter(body, b"\"role\": \"tool\"").count(),
    };
    received.drain(..head + length);
    Some(request)
}

fn content_length(line: &[u8]) -> Option<usize> {
    let (name, value) = line.split_at_checked(15)?;
    name.eq_ignore_ascii_case(b"content-length:").then(|| std::str::from_utf8(value).ok()?.trim().parse().ok())?
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

fn value_of<'a>(body: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    Some(body[find(body, key)? + key.len()..].trim_ascii_start())
}

// ---- replies

const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const USAGE: &str = r#"{"prompt_tokens":24,"completion_tokens":12,"total_tokens":36}"#;
const TEXT: &str = "The quick brown fox jumps over the lazy dog.";

fn whole_reply(behaviour: Behaviour, stream: bool, tool_messages: usize) -> Vec<u8> {
    let calls = match behaviour {
        Behaviour::Tools { rounds, calls } if tool_messages / calls < rounds => {
            tool_calls(tool_messages / calls, calls)
        }
        _ => Vec::new(),
    };
    let finish = if calls.is_empty() { "stop" } else { "tool_calls" };
    if !stream {
        let message = if calls.is_empty() {
            format!(r#"{{"role":"assistant","content":"{TEXT}"}}"#)
        } else {
            format!(r#"{{"role":"assistant","content":null,"tool_calls":[{}]}}"#, calls.join(","))
        };
        let body = format!(
            r#"{{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"bench","choices":[{{"index":0,"message":{message},"logprobs":null,"finish_reason":"{finish}"}}],"usage":{USAGE}}}"#
        );
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        return [head.as_bytes(), body.as_bytes()].concat();
    }
    let mut reply = STREAM_HEAD.to_vec();
    match behaviour {
        Behaviour::Burst { chunks } => {
            (0..chunks).for_each(|n| reply.extend(framed(&text_event(["quick ", "brown ", "fox "][n % 3]))))
        }
        _ if calls.is_empty() => reply.extend(framed(&text_event(TEXT))),
        _ => calls.iter().enumerate().for_each(|(index, call)| {
            let delta = format!(r#"{{"tool_calls":[{}]}}"#, call.replacen('{', &format!(r#"{{"index":{index},"#), 1));
            reply.extend(framed(&event(&delta, "null")));
        }),
    }
    reply.extend(stream_end(finish));
    reply
}

fn tool_calls(round: usize, calls: usize) -> Vec<String> {
    let call = |n| {
        format!(
            r#"{{"id":"call_{round}_{n}","type":"function","function":{{"name":"add","arguments":"{{\"a\":{round},\"b\":{n}}}"}}}}"#
        )
    };
    (0..calls).map(call).collect()
}

fn text_event(text: &str) -> String {
    event(&format!(r#"{{"content":"{text}"}}"#), "null")
}

fn event(delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish}}}]}}\n\n"
    )
}

fn stream_end(finish: &str) -> Vec<u8> {
    let usage = format!(
        "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[],\"usage\":{USAGE}}}\n\n"
    );
    [framed(&event("{}", &format!("\"{finish}\""))), framed(&usage), framed("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()]
        .concat()
}

/// As an HTTP chunk.
fn framed(event: &str) -> Vec<u8> {
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}
