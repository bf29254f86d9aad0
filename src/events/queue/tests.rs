//! The queue alone, with one reader and with several threads.

use super::*;
use futures_util::FutureExt;
use pretty_assertions::assert_eq;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

fn queue(events: usize) -> Queue {
    Queue::new(Bounds { events, bytes: 1 << 20 })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn events_come_out_in_order_and_end_once() {
    let queue = queue(10);
    queue.push(b"a");
    queue.push(b"b");
    queue.push_terminal(b"t");
    queue.push(b"late");
    assert_eq!(queue.poll(text).unwrap(), Polled::Event("a".into()));
    assert_eq!(queue.drain(9, text).unwrap(), Polled::Event("b,t".into()));
    assert_eq!(queue.poll(text).unwrap(), Polled::End);
    assert_eq!(queue.wait(None, text).unwrap(), Waited::End);
}

#[test]
fn a_wake_is_kept_for_the_next_wait() {
    let queue = queue(10);
    queue.wake();
    assert_eq!(queue.wait(None, text).unwrap(), Waited::Woken);
    assert_eq!(queue.wait(Some(Duration::ZERO), text).unwrap(), Waited::Timeout);
}

#[test]
fn a_second_reader_is_told() {
    let queue = Arc::new(queue(10));
    let reader = std::thread::spawn({
        let queue = Arc::clone(&queue);
        move || queue.wait(None, text)
    });
    while queue.inner.lock().waiters == 0 {
        std::thread::yield_now();
    }
    assert_eq!(queue.poll(text).unwrap_err().status(), Status::Busy);
    queue.push(b"x");
    assert_eq!(reader.join().unwrap().unwrap(), Waited::Event("x".into()));
}

#[test]
fn what_must_be_kept_outlives_what_may_be_lost() {
    let queue = queue(2);
    queue.push(b"work");
    for _ in 0..5 {
        assert_eq!(queue.push_lossy(b"log", Class::Log), None);
    }
    assert_eq!(queue.counts(), (2, 4));
    assert_eq!(queue.drain(9, text).unwrap(), Polled::Event("work,log".into()));
}

#[tokio::test]
async fn a_full_queue_waits_for_its_reader() {
    let queue = Arc::new(queue(1));
    queue.push(b"a");
    let producer = {
        let queue = Arc::clone(&queue);
        async move { queue.room().await }
    };
    let reader = async {
        tokio::task::yield_now().await;
        queue.poll(text)
    };
    let ((), polled) = tokio::join!(producer, reader);
    assert_eq!(polled.unwrap(), Polled::Event("a".into()));
}

#[test]
fn what_is_staged_is_not_there_until_it_is_flushed_and_tells_once() {
    let queue = queue(10);
    let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&told);
    queue.announce(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    queue.stage(b"a");
    queue.stage(b"b");
    assert_eq!(queue.poll(text).unwrap(), Polled::Pending);
    assert_eq!(queue.wait(Some(Duration::ZERO), text).unwrap(), Waited::Timeout);
    queue.flush();
    queue.flush();
    queue.stage(b"c");
    assert_eq!(queue.drain(9, text).unwrap(), Polled::Event("a,b".into()));
    assert_eq!(queue.drain(9, text).unwrap(), Polled::Pending);
    queue.push_terminal(b"t");
    assert_eq!(queue.drain(9, text).unwrap(), Polled::Event("c,t".into()));
    assert_eq!(queue.drain(9, text).unwrap(), Polled::End);
    assert_eq!(told.load(Ordering::SeqCst), 2);
}

/// The reader frees its stream while events are staged: the next read is an error, not a panic.
#[test]
fn a_read_after_the_reader_has_gone_is_an_error() {
    let queue = queue(10);
    queue.stage(b"a");
    queue.abandon();
    assert_eq!(queue.counts().0, 0);
    assert_eq!(queue.poll(text).unwrap_err().status(), Status::BadHandle);
    assert_eq!(queue.drain(usize::MAX, text).unwrap_err().status(), Status::BadHandle);
    assert_eq!(queue.wait(Some(Duration::ZERO), text).unwrap_err().status(), Status::BadHandle);
    assert_eq!(queue.fd().unwrap_err().status(), Status::BadHandle);
    queue.flush();
    assert_eq!(queue.counts().0, 0);
}

/// A lossy event after the end must not drop another one: it is not appended itself.
#[test]
fn a_lossy_event_after_the_end_drops_nothing() {
    let queue = queue(1);
    queue.push_lossy(b"event", Class::Event);
    queue.push_terminal(b"t");
    assert_eq!(queue.push_lossy(b"late", Class::Event), None);
    assert_eq!(queue.counts(), (2, 0));
    assert_eq!(queue.drain(9, text).unwrap(), Polled::Event("event,t".into()));
}

#[test]
fn a_staged_event_can_be_dropped_and_the_rest_stays_whole() {
    let queue = queue(2);
    queue.push_lossy(b"old", Class::Event);
    queue.stage(b"staged");
    assert_eq!(queue.push_lossy(b"new", Class::Log), Some(b"old".to_vec()));
    assert_eq!(queue.drain(9, text).unwrap(), Polled::Event("staged,new".into()));
}

/// A producer that waits for room must not wait for a reader that is gone, or for room behind the end.
#[test]
fn a_waiting_producer_is_woken_when_nothing_more_is_taken() {
    for end in [Queue::abandon, Queue::end, |queue: &Queue| queue.push_terminal(b"t")] {
        let queue = Arc::new(queue(1));
        queue.push(b"a");
        let (woken, done) = std::sync::mpsc::channel();
        let producer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(async {
                    let mut room = Box::pin(queue.room());
                    assert!(futures_util::poll!(&mut room).is_pending());
                    woken.send(()).unwrap();
                    tokio::time::timeout(Duration::from_secs(10), room).await
                })
            }
        });
        done.recv().unwrap();
        end(&queue);
        assert!(producer.join().unwrap().is_ok(), "the producer was not woken");
    }
}

/// Threads that push, stage, flush, read, wake and abandon at once; every event that is read is whole and in order.
#[test]
fn threads_agree_on_one_queue() {
    for round in 0..200 {
        let queue = Arc::new(queue(4));
        let producer = |from: usize, queue: Arc<Queue>| {
            std::thread::spawn(move || {
                for number in 0..50 {
                    let event = format!("{from}:{number}");
                    match number % 3 {
                        0 => queue.push(event.as_bytes()),
                        1 => queue.stage(event.as_bytes()),
                        _ => {
                            queue.stage(event.as_bytes());
                            queue.flush();
                        }
                    }
                    if number % 7 == 0 {
                        queue.wake();
                    }
                }
            })
        };
        let producers = [producer(0, Arc::clone(&queue)), producer(1, Arc::clone(&queue))];
        let mut next = [0, 0];
        loop {
            let read = match round % 2 {
                0 => queue.poll(text).map(|polled| matches!(polled, Polled::Event(_)).then_some(polled)),
                _ => queue.drain(3, text).map(|polled| matches!(polled, Polled::Event(_)).then_some(polled)),
            };
            if let Some(Polled::Event(events)) = read.unwrap() {
                for event in events.split(',') {
                    let (from, number) = event.split_once(':').unwrap();
                    let from: usize = from.parse().unwrap();
                    assert_eq!(number.parse(), Ok(next[from]));
                    next[from] += 1;
                }
            }
            if round % 5 == 0 && next[0] > 20 {
                queue.abandon();
                break;
            }
            if next == [50, 50] || producers.iter().all(|producer| producer.is_finished()) && queue.counts().0 == 0 {
                break;
            }
        }
        for producer in producers {
            producer.join().unwrap();
        }
        match round % 5 {
            0 => assert_eq!(queue.poll(text).unwrap_err().status(), Status::BadHandle),
            _ => {
                queue.push_terminal(b"t");
                let rest = queue.drain(usize::MAX, text).unwrap();
                assert!(matches!(rest, Polled::Event(events) if events.ends_with('t')));
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Stage(u8),
    Push(u8),
    Lossy(u8, Class),
    IfRoom(u8),
    Flush,
    Terminal,
    StageTerminal,
    ShowEnd,
    End,
    Poll,
    Drain(usize),
    Wait,
    Wake,
    Abandon,
    /// A producer starts to wait for room.
    AskForRoom,
    Fd,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1u8..30).prop_map(Op::Push),
        6 => (1u8..30).prop_map(Op::Stage),
        4 => ((1u8..30), prop_oneof![Just(Class::Event), Just(Class::Log)]).prop_map(|(n, class)| Op::Lossy(n, class)),
        3 => (1u8..30).prop_map(Op::IfRoom),
        4 => Just(Op::Flush),
        6 => Just(Op::Poll),
        5 => (0usize..6).prop_map(|n| Op::Drain(if n == 5 { usize::MAX } else { n })),
        3 => Just(Op::Wait),
        2 => Just(Op::Wake),
        3 => Just(Op::AskForRoom),
        2 => Just(Op::ShowEnd),
        1 => Just(Op::Fd),
        1 => Just(Op::Terminal),
        1 => Just(Op::StageTerminal),
        1 => Just(Op::End),
        1 => Just(Op::Abandon),
    ]
}

const BOUND: usize = 4;

/// What a queue is, in the simplest words.
#[derive(Default)]
struct Model {
    shown: VecDeque<(String, Class)>,
    staged: VecDeque<(String, Class)>,
    ended: bool,
    abandoned: bool,
    woken: bool,
    dropped: u64,
}

impl Model {
    fn fits(&self) -> bool {
        self.shown.len() + self.staged.len() < BOUND
    }

    fn takes(&self) -> bool {
        !self.ended && !self.abandoned
    }

    fn append(&mut self, event: String, class: Class) {
        if self.takes() {
            self.staged.push_back((event, class));
        }
    }

    fn flush(&mut self) {
        self.shown.extend(self.staged.drain(..));
    }

    fn is_over(&self) -> bool {
        self.ended && self.shown.is_empty() && self.staged.is_empty()
    }

    fn drop_oldest(&mut self) -> Option<Vec<u8>> {
        for list in [&mut self.shown, &mut self.staged] {
            if let Some(at) = list.iter().position(|(_, class)| *class != Class::Kept) {
                let (event, class) = list.remove(at).unwrap();
                self.dropped += 1;
                return (class == Class::Event).then(|| event.into_bytes());
            }
        }
        None
    }

    fn read(&mut self, most: usize) -> std::result::Result<Polled<String>, Status> {
        if self.abandoned {
            return Err(Status::BadHandle);
        }
        let count = most.min(self.shown.len());
        Ok(match count {
            0 if self.is_over() => Polled::End,
            0 => Polled::Pending,
            _ => Polled::Event(self.shown.drain(..count).map(|(event, _)| event).collect::<Vec<_>>().join(",")),
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Every operation takes the lock once, so each interleaving of threads is one sequence of operations: after any of them the
    /// queue agrees with the model, the descriptor is readable exactly when a poll gives something, and no producer waits while
    /// there is room or nobody to wait for.
    #[test]
    fn the_queue_agrees_with_its_model(ops in proptest::collection::vec(op(), 0..80)) {
        let queue = Arc::new(queue(BOUND));
        let mut model = Model::default();
        let mut waiting: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
        for op in ops {
            match op.clone() {
                Op::Stage(n) => {
                    queue.stage("s".repeat(n.into()).as_bytes());
                    model.append("s".repeat(n.into()), Class::Kept);
                }
                Op::Push(n) => {
                    queue.push("p".repeat(n.into()).as_bytes());
                    if model.takes() {
                        model.append("p".repeat(n.into()), Class::Kept);
                        model.flush();
                    }
                }
                Op::Lossy(n, class) => {
                    let expected = if model.takes() && !model.fits() { model.drop_oldest() } else { None };
                    prop_assert_eq!(queue.push_lossy("l".repeat(n.into()).as_bytes(), class), expected);
                    if model.takes() {
                        model.append("l".repeat(n.into()), class);
                        model.flush();
                    }
                }
                Op::IfRoom(n) => {
                    let fits = model.takes() && model.fits();
                    prop_assert_eq!(queue.push_if_room("i".repeat(n.into()).as_bytes()), fits);
                    if fits {
                        model.append("i".repeat(n.into()), Class::Kept);
                        model.flush();
                    }
                }
                Op::Flush => {
                    queue.flush();
                    model.flush();
                }
                Op::Terminal => {
                    queue.push_terminal(b"end");
                    if model.takes() {
                        model.append("end".into(), Class::Kept);
                        model.flush();
                    }
                    model.ended = true;
                }
                Op::StageTerminal => {
                    queue.stage_terminal(b"end");
                    model.append("end".into(), Class::Kept);
                    model.ended = true;
                }
                Op::ShowEnd => {
                    prop_assert_eq!(queue.show_end(), model.ended);
                    if model.ended {
                        model.flush();
                    }
                }
                Op::End => {
                    queue.end();
                    if !model.ended {
                        model.flush();
                    }
                    model.ended = true;
                }
                Op::Poll => prop_assert_eq!(queue.poll(text).map_err(|error| error.status()), model.read(1)),
                Op::Drain(most) => {
                    prop_assert_eq!(queue.drain(most, text).map_err(|error| error.status()), model.read(most));
                }
                Op::Wait => {
                    let expected = match model.read(1) {
                        Ok(Polled::Event(event)) => Ok(Waited::Event(event)),
                        Ok(Polled::End) => Ok(Waited::End),
                        Ok(Polled::Pending) if std::mem::take(&mut model.woken) => Ok(Waited::Woken),
                        Ok(Polled::Pending) => Ok(Waited::Timeout),
                        Err(status) => Err(status),
                    };
                    prop_assert_eq!(queue.wait(Some(Duration::ZERO), text).map_err(|error| error.status()), expected);
                }
                Op::Wake => {
                    queue.wake();
                    model.woken = true;
                }
                Op::Abandon => {
                    queue.abandon();
                    model.abandoned = true;
                    model.shown.clear();
                    model.staged.clear();
                }
                Op::AskForRoom => {
                    let queue = Arc::clone(&queue);
                    let mut room: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move { queue.room().await });
                    model.flush();
                    if room.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                        waiting.push(room);
                    }
                }
                Op::Fd => prop_assert_eq!(queue.fd().map(drop).map_err(|error| error.status()),
                    if model.abandoned { Err(Status::BadHandle) } else { Ok(()) }),
            }
            prop_assert_eq!(queue.counts(), (model.shown.len(), model.dropped), "after {:?}", op);
            prop_assert_eq!(queue.staged(), model.staged.len());
            prop_assert_eq!(queue.has_room(), model.fits());
            prop_assert_eq!(queue.is_abandoned(), model.abandoned);
            waiting.retain_mut(|room| room.as_mut().now_or_never().is_none());
            let may_wait = model.takes() && !model.fits();
            prop_assert!(waiting.is_empty() || may_wait, "a producer waits after {:?}", op);
            if let Some(signal) = &queue.inner.lock().signal {
                let mut poll = [nix::poll::PollFd::new(
                    std::os::fd::AsFd::as_fd(signal.event_for_test()), nix::poll::PollFlags::POLLIN)];
                let readable = nix::poll::poll(&mut poll, nix::poll::PollTimeout::ZERO).unwrap() == 1;
                prop_assert_eq!(readable, !model.shown.is_empty() || model.is_over());
            }
        }
    }
}
