//! The queue alone, with one reader and with several threads.

use super::*;
use pretty_assertions::assert_eq;
use proptest::prelude::*;
use std::sync::Arc;

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
    while queue.state.lock().waiters == 0 {
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
        queue.push_lossy(b"log", |event| event == b"work");
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

#[derive(Clone, Debug)]
enum Op {
    Stage(u8),
    Flush,
    Push(u8),
    Terminal,
    Poll,
    Drain(usize),
}

proptest! {
    /// The descriptor is readable exactly when a poll would give something, after any sequence of operations.
    #[test]
    fn the_descriptor_follows_the_queue(ops in proptest::collection::vec(prop_oneof![
        (1u8..30).prop_map(Op::Push), (1u8..30).prop_map(Op::Stage), Just(Op::Flush), Just(Op::Poll), (1usize..5).prop_map(Op::Drain), Just(Op::Terminal),
    ], 0..60), fd_at in 0usize..60) {
        let queue = queue(1000);
        let mut model: VecDeque<String> = VecDeque::new();
        let mut staged: Vec<String> = Vec::new();
        let mut ended = false;
        for (index, op) in ops.into_iter().enumerate() {
            if index == fd_at { queue.fd().unwrap(); }
            match op {
                Op::Stage(n) => {
                    let event = "s".repeat(n.into());
                    queue.stage(event.as_bytes());
                    if !ended { staged.push(event); }
                }
                Op::Flush => {
                    queue.flush();
                    model.extend(staged.drain(..));
                }
                Op::Push(n) => {
                    let event = "x".repeat(n.into());
                    queue.push(event.as_bytes());
                    model.extend(staged.drain(..));
                    if !ended { model.push_back(event); }
                }
                Op::Terminal => {
                    queue.push_terminal(b"end");
                    model.extend(staged.drain(..));
                    if !ended { model.push_back("end".into()); }
                    ended = true;
                }
                Op::Poll => {
                    let expected = match model.pop_front() {
                        Some(event) => Polled::Event(event),
                        None if ended => Polled::End,
                        None => Polled::Pending,
                    };
                    prop_assert_eq!(queue.poll(text).unwrap(), expected);
                }
                Op::Drain(most) => {
                    let count = most.min(model.len());
                    let expected = if count > 0 {
                        Polled::Event(model.drain(..count).collect::<Vec<_>>().join(","))
                    } else if ended { Polled::End } else { Polled::Pending };
                    prop_assert_eq!(queue.drain(most, text).unwrap(), expected);
                }
            }
            if let Some(signal) = &queue.state.lock().signal {
                let mut poll = [nix::poll::PollFd::new(
                    std::os::fd::AsFd::as_fd(signal.event_for_test()), nix::poll::PollFlags::POLLIN)];
                let readable = nix::poll::poll(&mut poll, nix::poll::PollTimeout::ZERO).unwrap() == 1;
                prop_assert_eq!(readable, !model.is_empty() || ended);
            }
        }
    }
}
