//! The lot against a model that keeps the same account in the plainest way.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use crate::close_reason::{CloseReason, Deadline};
use crate::conn::events::{Signal, Wait};
use crate::conn::table::*;
use crate::settings::{Deadlines, Ticks};
use std::time::Duration;

fn ticks(seconds: [u64; 5]) -> Ticks {
    let some = |seconds| (seconds > 0).then(|| Duration::from_secs(seconds));
    Ticks::new(&Deadlines {
        first_byte: some(seconds[0]),
        handshake: some(seconds[1]),
        frame: some(seconds[2]),
        idle: some(seconds[3]),
        body: None,
        write: some(seconds[4]),
    })
}

fn lot(ticks: &Ticks) -> Lot<u32> {
    Lot::new(ticks.horizon, true)
}

const IDLE: (Wait, bool) = (Wait::Idle, true);

#[test]
fn a_signal_to_an_active_connection_is_kept_until_it_is_parked() {
    let ticks = ticks([8; 5]);
    let mut lot = lot(&ticks);
    let key = lot.claim(Visit::UNCOUNTED);
    assert_eq!(lot.signal(key, Signal::READABLE), Signalled::Noted);
    assert!(lot.next_ready().is_none());
    assert_eq!(lot.park(key, 7, IDLE, &ticks), Signalled::Ready);
    let (ready, content, order) = lot.next_ready().unwrap();
    assert_eq!((ready, content, order.signals), (key, 7, Signal::READABLE));
    assert!(lot.next_ready().is_none());
    // What was told once is not told again.
    assert_eq!(lot.park(key, 7, IDLE, &ticks), Signalled::Noted);
}

#[test]
fn bytes_do_not_wake_what_waits_to_write_and_are_not_forgotten() {
    let ticks = ticks([8; 5]);
    let mut lot = lot(&ticks);
    let key = lot.claim(Visit::UNCOUNTED);
    lot.park(key, 7, (Wait::Write, true), &ticks);
    assert_eq!(lot.signal(key, Signal::READABLE | Signal::PUSHED), Signalled::Noted);
    assert_eq!(lot.signal(key, Signal::WRITABLE), Signalled::Ready);
    let (_, _, order) = lot.next_ready().unwrap();
    assert!(order.signals.any(Signal::READABLE) && order.signals.any(Signal::PUSHED));
}

#[test]
fn a_burst_that_waits_is_told_once_and_of_its_doom_each_time() {
    let ticks = ticks([8; 5]);
    let mut lot = lot(&ticks);
    let key = lot.claim(Visit::UNCOUNTED);
    lot.signal(key, Signal::READABLE | Signal::WRITABLE);
    assert_eq!(lot.heed(key, Signal::READABLE), Signal::READABLE);
    lot.doom(key, CloseReason::Shutdown);
    assert_eq!(lot.heed(key, Signal::READABLE), Signal::DOOM);
    assert_eq!(lot.heed(key, Signal::READABLE), Signal::DOOM);
    assert!(lot.has(key, Signal::WRITABLE) && !lot.has(key, Signal::READABLE));
    assert_eq!(lot.park(key, 7, IDLE, &ticks), Signalled::Ready);
}

#[test]
fn a_key_does_not_outlive_its_connection() {
    let ticks = ticks([8; 5]);
    let mut lot = lot(&ticks);
    let old = lot.claim(Visit::UNCOUNTED);
    lot.release(old);
    let new = lot.claim(Visit::UNCOUNTED);
    assert_eq!(old.index, new.index, "the record is used again");
    lot.park(new, 7, IDLE, &ticks);
    assert_eq!(lot.signal(old, Signal::READABLE), Signalled::Gone);
    assert_eq!(lot.doom(old, CloseReason::Local), Signalled::Gone);
    assert!(lot.take(old).is_none() && lot.next_ready().is_none());
    assert_eq!(lot.park(old, 8, IDLE, &ticks), Signalled::Gone);
    lot.release(old);
    assert_eq!((lot.open(), lot.parked()), (1, 1));
}

#[test]
fn a_deadline_is_never_early_and_a_tick_late_at_most() {
    // Eight ticks a second and 8, 16, ... seconds; records are looked at every 65th tick or so.
    let seconds = [8, 16, 24, 100, 9];
    let ticks = ticks(seconds);
    let waits = [Wait::FirstByte, Wait::Handshake, Wait::Frame, Wait::Idle, Wait::Write];
    for start in [0, 1, 5, 63, 64, 65, 1_000] {
        for (wait, seconds) in waits.into_iter().zip(seconds) {
            let mut lot = lot(&ticks);
            let key = lot.claim(Visit::UNCOUNTED);
            (0..start).for_each(|_| lot.tick(|_| panic!("nothing is due")));
            lot.park(key, 7, (wait, true), &ticks);
            let mut passed = 0;
            while lot.ready() == 0 {
                lot.tick(|_| {});
                passed += 1;
            }
            let full = (seconds * 1000).div_ceil(ticks.tick.as_millis() as u64);
            assert!((full..=full + 1).contains(&passed), "{wait:?} from {start}: {passed}");
            let (_, _, order) = lot.next_ready().unwrap();
            assert_eq!(order.late, Some(wait.deadline()));
        }
    }
}

#[test]
fn activity_moves_a_deadline_and_more_of_the_same_does_not() {
    let ticks = ticks([8; 5]);
    let mut lot = lot(&ticks);
    let (moved, kept) = (lot.claim(Visit::UNCOUNTED), lot.claim(Visit::UNCOUNTED));
    lot.park(moved, 0, (Wait::Frame, true), &ticks);
    lot.park(kept, 1, (Wait::Frame, true), &ticks);
    let mut ended = HashMap::new();
    for tick in 1..200u32 {
        lot.tick(|key| {
            ended.insert(key, tick);
        });
        while lot.next_ready().is_some() {}
        for (key, begins_anew) in [(moved, tick <= 90), (kept, false)] {
            if !ended.contains_key(&key) && tick % 5 == 0 {
                lot.signal(key, Signal::READABLE);
                let (key, content, _) = lot.next_ready().unwrap();
                lot.park(key, content, (Wait::Frame, begins_anew), &ticks);
            }
        }
    }
    let full = 8_000 / ticks.tick.as_millis() as u32;
    assert!((full..=full + 1).contains(&ended[&kept]), "{}", ended[&kept]);
    assert!((90 + full..=91 + full).contains(&ended[&moved]), "{}", ended[&moved]);
}

#[test]
fn without_deadlines_nothing_is_ever_due() {
    let ticks = ticks([0; 5]);
    let mut lot = lot(&ticks);
    let key = lot.claim(Visit::UNCOUNTED);
    lot.park(key, 7, IDLE, &ticks);
    (0..10_000).for_each(|_| lot.tick(|_| panic!("nothing is due")));
}

#[test]
fn time_may_wrap() {
    let ticks = ticks([8; 5]);
    let mut lot = lot(&ticks);
    for start in [NEVER - 200, NEVER - 70, NEVER - 65, NEVER - 64, NEVER - 1, NEVER] {
        lot.now = start;
        let key = lot.claim(Visit::UNCOUNTED);
        lot.park(key, 7, IDLE, &ticks);
        let mut passed = 0;
        while lot.ready() == 0 {
            lot.tick(|_| {});
            passed += 1;
            assert!(passed < 200, "from {start}");
        }
        assert!(passed >= ticks.horizon - 1, "from {start}: {passed}");
        lot.next_ready().unwrap();
        lot.release(key);
        // Off the wheel, which was made for consecutive ticks.
        (0..100).for_each(|_| lot.tick(|_| {}));
    }
}

#[test]
fn records_are_used_again() {
    let ticks = ticks([8; 5]);
    let mut lot = lot(&ticks);
    for round in 0..100_000 {
        let key = lot.claim(Visit::UNCOUNTED);
        lot.park(key, 0, IDLE, &ticks);
        if round % 100 == 0 {
            lot.tick(|_| {});
        }
        lot.release(key);
    }
    assert_eq!(lot.chunks.len(), 1);
    assert_eq!((lot.open(), lot.parked()), (0, 0));
}

#[test]
fn a_hard_end_outdoes_a_gentle_one() {
    let ticks = ticks([8; 5]);
    let mut lot = lot(&ticks);
    let key = lot.claim(Visit::UNCOUNTED);
    lot.doom(key, CloseReason::Shutdown);
    lot.doom(key, CloseReason::SlowReader);
    lot.doom(key, CloseReason::Local);
    lot.park(key, 7, IDLE, &ticks);
    assert_eq!(lot.next_ready().unwrap().2.doom, Some(CloseReason::SlowReader));
    // It stays: a burst that goes on for a while is told again.
    lot.park(key, 7, IDLE, &ticks);
    lot.signal(key, Signal::READABLE);
    assert_eq!(lot.next_ready().unwrap().2.doom, Some(CloseReason::SlowReader));
}

#[test]
fn a_deadline_is_told_once() {
    let ticks = ticks([8; 5]);
    let mut lot = lot(&ticks);
    let key = lot.claim(Visit::UNCOUNTED);
    lot.park(key, 7, IDLE, &ticks);
    while lot.ready() == 0 {
        lot.tick(|_| {});
    }
    assert_eq!(lot.next_ready().unwrap().2.late, Some(Deadline::Idle));
    lot.park(key, 7, IDLE, &ticks);
    lot.signal(key, Signal::READABLE);
    assert_eq!(lot.next_ready().unwrap().2.late, None);
}

#[test]
fn a_deadline_that_is_kept_leaves_the_end_that_was_asked_for() {
    let ticks = ticks([8; 5]);
    let mut lot = lot(&ticks);
    let key = lot.claim(Visit::UNCOUNTED);
    lot.doom(key, CloseReason::Shutdown);
    lot.doom(key, CloseReason::Local);
    lot.doom(key, CloseReason::Shutdown);
    lot.park(key, 7, IDLE, &ticks);
    assert_eq!(lot.next_ready().unwrap().2.doom, Some(CloseReason::Local));
    lot.park(key, 7, (Wait::Write, true), &ticks);
    while lot.ready() == 0 {
        lot.tick(|_| {});
    }
    let order = lot.next_ready().unwrap().2;
    assert_eq!((order.late, order.doom), (Some(Deadline::Write), Some(CloseReason::Local)));
    lot.park(key, 7, (Wait::Write, true), &ticks);
    lot.signal(key, Signal::WRITABLE);
    assert_eq!(lot.next_ready().unwrap().2.doom, Some(CloseReason::Local));
}

#[derive(Debug, Clone)]
enum Step {
    Claim,
    Park(usize, u8, bool),
    Signal(usize, u8),
    Doom(usize),
    Next,
    Take(usize),
    Release(usize),
    Tick(u8),
    Evict,
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..6usize;
    prop_oneof![
        3 => Just(Step::Claim),
        6 => (which.clone(), 0..6u8, any::<bool>()).prop_map(|(n, w, m)| Step::Park(n, w, m)),
        6 => (which.clone(), 0..4u8).prop_map(|(n, signal)| Step::Signal(n, signal)),
        1 => which.clone().prop_map(Step::Doom),
        4 => Just(Step::Next),
        1 => which.clone().prop_map(Step::Take),
        1 => which.prop_map(Step::Release),
        3 => (1..90u8).prop_map(Step::Tick),
        1 => Just(Step::Evict),
    ]
}

/// What the model knows of one connection.
struct Known {
    key: Key,
    /// `None` while it is active.
    parked: Option<(u32, Wait)>,
    signals: Signal,
    due: Option<u32>,
    wait: Wait,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Ready are exactly those which are parked and were signalled for what they wait for, in the
    /// order in which that came about; deadlines fall when they are due; nobody gets another's.
    #[test]
    fn it_agrees_with_the_model(steps in prop::collection::vec(step(), 1..120)) {
        let ticks = ticks([8, 10, 9, 40, 12]);
        let mut lot = lot(&ticks);
        let mut known: Vec<Known> = Vec::new();
        let mut ready: VecDeque<Key> = VecDeque::new();
        let mut content = 0;
        let mut now = 0u32;
        for step in steps {
            match step {
                Step::Claim => {
                    let key = lot.claim(Visit::UNCOUNTED);
                    prop_assert!(known.iter().all(|other| other.key != key));
                    let wait = Wait::FirstByte;
                    known.push(Known { key, parked: None, signals: Signal::NONE, due: None, wait });
                }
                Step::Park(n, wait, moved) => {
                    let Some(one) = known.get_mut(n).filter(|one| one.parked.is_none()) else { continue };
                    let wait = [Wait::FirstByte, Wait::Handshake, Wait::Idle, Wait::Frame, Wait::Write, Wait::Turn]
                        [wait as usize];
                    content += 1;
                    if moved || wait != one.wait && wait != Wait::Turn {
                        let end = ticks.end(wait, now);
                        one.due = (end != NEVER).then_some(end);
                        one.wait = wait;
                    }
                    one.parked = Some((content, wait));
                    let signalled = lot.park(one.key, content, (wait, moved), &ticks);
                    let expected = wait.heeds(one.signals);
                    prop_assert_eq!(signalled == Signalled::Ready, expected);
                    if expected {
                        ready.push_back(one.key);
                    }
                }
                Step::Signal(n, signal) => {
                    let Some(one) = known.get_mut(n) else { continue };
                    let signal = [Signal::READABLE, Signal::CLOSING, Signal::WRITABLE, Signal::PUSHED][signal as usize];
                    one.signals = one.signals | signal;
                    lot.signal(one.key, signal);
                    if one.parked.is_some_and(|(_, wait)| wait.heeds(one.signals)) && !ready.contains(&one.key) {
                        ready.push_back(one.key);
                    }
                }
                Step::Doom(n) => {
                    let Some(one) = known.get_mut(n) else { continue };
                    one.signals = one.signals | Signal::DOOM;
                    lot.doom(one.key, CloseReason::Local);
                    if one.parked.is_some() && !ready.contains(&one.key) {
                        ready.push_back(one.key);
                    }
                }
                Step::Next => {
                    let next = lot.next_ready();
                    prop_assert_eq!(next.as_ref().map(|next| next.0), ready.pop_front());
                    let Some((key, content, order)) = next else { continue };
                    let one = known.iter_mut().find(|one| one.key == key).unwrap();
                    prop_assert_eq!(one.parked.take().map(|(content, _)| content), Some(content));
                    prop_assert_eq!(order.signals, one.signals);
                    one.signals = Signal::NONE;
                }
                Step::Take(n) => {
                    let Some(one) = known.get_mut(n) else { continue };
                    let taken = lot.take(one.key).map(|(content, _)| content.unwrap());
                    prop_assert_eq!(taken, one.parked.take().map(|(content, _)| content));
                    if taken.is_some() {
                        one.signals = Signal::NONE;
                        ready.retain(|key| *key != one.key);
                    }
                }
                Step::Release(n) => {
                    if n >= known.len() { continue }
                    let one = known.swap_remove(n);
                    ready.retain(|key| *key != one.key);
                    let released = lot.release(one.key).unwrap().1;
                    prop_assert_eq!(released, one.parked.map(|(content, _)| content));
                }
                Step::Tick(count) => {
                    for _ in 0..count {
                        now += 1;
                        let mut due = Vec::new();
                        lot.tick(|key| due.push(key));
                        for one in &mut known {
                            let parked = one.parked.is_some() && !ready.contains(&one.key);
                            let is_due = parked && one.due.is_some_and(|due| due <= now);
                            prop_assert_eq!(due.contains(&one.key), is_due, "at {} due {:?}", now, one.due);
                            if is_due {
                                one.signals = one.signals | Signal::DOOM;
                            }
                        }
                        ready.extend(due);
                    }
                }
                Step::Evict => {
                    let mut evicted = lot.evict();
                    evicted.sort_by_key(|(key, _)| key.index);
                    let mut expected: Vec<_> = known
                        .iter_mut()
                        .filter_map(|one| one.parked.take().map(|(content, _)| (one.key, content)))
                        .collect();
                    expected.sort_by_key(|(key, _)| key.index);
                    prop_assert_eq!(evicted, expected);
                    ready.clear();
                    known.iter_mut().for_each(|one| if one.parked.is_none() { one.signals = Signal::NONE });
                    // Those that were active before keep their signals; nothing tells them apart here.
                    return Ok(());
                }
            }
            prop_assert_eq!(lot.open(), known.len());
            prop_assert_eq!(lot.parked(), known.iter().filter(|one| one.parked.is_some()).count());
            prop_assert_eq!(lot.ready() > 0, !ready.is_empty());
        }
    }
}
