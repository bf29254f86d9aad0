//! A raw socket: HTTP/1.1 by hand, blocking for one exchange at a time, one epoll for many.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::measure::{self, Added, Figures, Watch};
use crate::wire::{Events, Reply, Request};
use crate::{IN_FLIGHT, LATE_MS, Scenario};

pub fn run(scenario: &Scenario) -> Figures {
    match &*scenario.name {
        "invoke" => sequential(scenario, 200),
        "tools" => sequential(scenario, 50),
        "burst" => sequential(scenario, 5),
        "flight" => flight(scenario),
        "spaced" => spaced(scenario),
        "crowd" => crowd(scenario),
        "idle" => idle(scenario),
        other => panic!("no scenario {other}"),
    }
}

/// How much of a response has been read.
enum Body {
    Head,
    Length(usize),
    Chunked,
}

struct Connection {
    socket: TcpStream,
    received: Vec<u8>,
    /// Where `received` is read up to.
    at: usize,
    body: Body,
    events: Events,
    reply: Reply,
    started: Instant,
}

impl Connection {
    fn open(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("the server");
        socket.set_nodelay(true).expect("a socket");
        Self {
            socket,
            received: Vec::new(),
            at: 0,
            body: Body::Head,
            events: Events::default(),
            reply: Reply::default(),
            started: Instant::now(),
        }
    }

    fn ask(&mut self, body: &[u8]) {
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nauthorization: Bearer k\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.started = Instant::now();
        self.socket.write_all(&[head.as_bytes(), body].concat()).expect("a live connection");
    }

    /// One read; the reply when it is complete.
    fn advance(&mut self, on_text: &mut impl FnMut(&str)) -> Option<Reply> {
        let filled = self.received.len();
        self.received.resize(filled + 16 * 1024, 0);
        let n = match self.socket.read(&mut self.received[filled..]) {
            Ok(0) => panic!("the server hung up"),
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        };
        self.received.truncate(filled + n);
        let complete = self.parse(on_text);
        self.received.drain(..self.at);
        self.at = 0;
        complete.then(|| {
            self.body = Body::Head;
            std::mem::take(&mut self.reply)
        })
    }

    fn parse(&mut self, on_text: &mut impl FnMut(&str)) -> bool {
        loop {
            let unread = &self.received[self.at..];
            match self.body {
                Body::Head => {
                    let Some(end) = memchr::memmem::find(unread, b"\r\n\r\n") else { return false };
                    let head = std::str::from_utf8(&unread[..end]).expect("an ASCII head");
                    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                    self.body = length.map_or(Body::Chunked, Body::Length);
                    self.at += end + 4;
                }
                Body::Length(length) => {
                    let Some(body) = unread.get(..length) else { return false };
                    self.reply = Reply::whole(body);
                    self.at += length;
                    return true;
                }
                Body::Chunked => {
                    let Some(line_end) = memchr::memchr(b'\n', unread) else { return false };
                    let digits = std::str::from_utf8(&unread[..line_end - 1]).expect("a chunk size");
                    let size = usize::from_str_radix(digits, 16).expect("a chunk size");
                    let Some(piece) = unread.get(line_end + 1..line_end + 1 + size + 2) else { return false };
                    self.events.feed(&piece[..size], |payload| self.reply.payload(payload, &mut *on_text));
                    self.at += line_end + 1 + size + 2;
                    if size == 0 {
                        return true;
                    }
                }
            }
        }
    }

    fn exchange(&mut self, body: &[u8], on_text: &mut impl FnMut(&str)) -> Reply {
        self.ask(body);
        loop {
            if let Some(reply) = self.advance(on_text) {
                return reply;
            }
        }
    }

    fn complete(&mut self, scenario: &Scenario, model: &str, on_text: &mut impl FnMut(&str)) -> Reply {
        let mut request = Request::first(scenario, model);
        loop {
            let reply = self.exchange(&request.encoded(), on_text);
            if reply.calls.is_empty() {
                return reply;
            }
            request.continue_with(reply);
        }
    }
}

fn sequential(scenario: &Scenario, warm_up: usize) -> Figures {
    let model = scenario.model();
    let mut connection = Connection::open(scenario.port);
    let mut watch = Watch::start();
    let mut chunks = 0;
    for n in 0..scenario.count + warm_up {
        if n == warm_up {
            (watch, chunks) = (Watch::start(), 0);
        }
        let reply = connection.complete(scenario, &model, &mut |_| ());
        assert!(reply.done && reply.usage.is_some() && !reply.text.is_empty());
        chunks += reply.chunks;
    }
    let mut figures = watch.each(scenario.count);
    figures.insert("chunks_per_second", chunks as f64 * 1e6 / watch.wall_us());
    figures
}

fn spaced(scenario: &Scenario) -> Figures {
    let mut added = Added::with_room_for(scenario.count * scenario.size);
    let mut connection = Connection::open(scenario.port);
    for _ in 0..scenario.count {
        connection.complete(scenario, &scenario.model(), &mut |text| added.token(text));
    }
    added.percentiles()
}

/// Many connections on one epoll; `finished` may ask again on the one it is given.
struct Many {
    epoll: i32,
    connections: Vec<Connection>,
}

impl Many {
    fn open(port: u16, count: usize) -> Self {
        // SAFETY: no memory is involved.
        let epoll = unsafe { libc::epoll_create1(0) };
        let connections: Vec<_> = (0..count).map(|_| Connection::open(port)).collect();
        for (n, connection) in connections.iter().enumerate() {
            connection.socket.set_nonblocking(true).expect("a socket");
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: n as u64 };
            // SAFETY: `event` outlives the call.
            unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, connection.socket.as_raw_fd(), &mut event) };
        }
        Self { epoll, connections }
    }

    /// Until `finished` has answered false as often as there are connections, or the time is up.
    fn drive(
        &mut self,
        until: Option<Instant>,
        mut on_text: impl FnMut(&str),
        mut finished: impl FnMut(&mut Connection, Reply) -> bool,
    ) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        let mut live = self.connections.len();
        while live > 0 {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let timeout = left.map_or(-1, |left| left.as_millis() as i32);
            if timeout == 0 {
                return;
            }
            // SAFETY: the buffer lives across the call and its length is given.
            let ready = unsafe { libc::epoll_wait(self.epoll, events.as_mut_ptr(), 256, timeout) };
            for event in &events[..ready.max(0) as usize] {
                let connection = &mut self.connections[event.u64 as usize];
                if let Some(reply) = connection.advance(&mut on_text) {
                    live -= usize::from(!finished(connection, reply));
                }
            }
        }
    }
}

fn flight(scenario: &Scenario) -> Figures {
    let model = scenario.model();
    let mut many = Many::open(scenario.port, IN_FLIGHT);
    let mut rush = |count: usize| {
        let ask = |connection: &mut Connection| connection.ask(&Request::first(scenario, &model).encoded());
        many.connections.iter_mut().for_each(ask);
        let mut left = count - IN_FLIGHT;
        many.drive(
            None,
            |_| (),
            |connection, _| {
                let more = left > 0;
                if more {
                    left -= 1;
                    ask(connection);
                }
                more
            },
        );
    };
    rush(2000);
    let watch = Watch::start();
    rush(scenario.count);
    watch.each(scenario.count)
}

fn crowd(scenario: &Scenario) -> Figures {
    let mut added = Added::with_room_for(scenario.count * scenario.size);
    let (before_kb, watch) = (measure::memory_kb("VmRSS"), Watch::start());
    let mut many = Many::open(scenario.port, scenario.count);
    let body = Request::first(scenario, &scenario.model()).encoded();
    many.connections.iter_mut().for_each(|connection| connection.ask(&body));
    let limit = Duration::from_millis(50 * (scenario.size as u64 + 1) + LATE_MS);
    let mut late = 0;
    many.drive(
        None,
        |text| added.token(text),
        |connection, _| {
            late += usize::from(connection.started.elapsed() > limit);
            false
        },
    );
    let mut figures = measure::crowd(&watch, before_kb, scenario.count, late, 0);
    figures.append(&mut added.percentiles());
    figures
}

fn idle(scenario: &Scenario) -> Figures {
    let mut many = Many::open(scenario.port, scenario.count);
    let body = Request::first(scenario, &scenario.model()).encoded();
    many.connections.iter_mut().for_each(|connection| connection.ask(&body));
    let settled = Instant::now() + Duration::from_millis(scenario.size as u64 / 4);
    many.drive(Some(settled), |_| (), |_, _| false);
    let watch = Watch::start();
    many.drive(Some(Instant::now() + Duration::from_millis(scenario.size as u64 / 2)), |_| (), |_, _| false);
    Figures::from([("idle_cpu_ms_per_second", 1e3 * watch.cpu_us() / watch.wall_us()), ("failed", 0.0)])
}
