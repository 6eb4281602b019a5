//! Unit tests of the table, and a comparison with a model that has no lists and no wheel.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use crate::close_reason::{CloseReason, Deadline};
use crate::conn::events::{Events, ParkReason};
use crate::conn::key::ConnKey;
use crate::conn::table::*;
use crate::conn::task_entry::TaskEntry;
use crate::settings::{Deadlines, Ticks};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

/// The state of connections without tasks.
impl ParkedState for u32 {
    fn task(&self) -> Option<&Arc<TaskEntry>> {
        None
    }
}

fn ticks(seconds: [u64; 5]) -> Ticks {
    let some = |seconds| (seconds > 0).then(|| Duration::from_secs(seconds));
    Ticks::new(&Deadlines {
        linger: Duration::from_secs(1),
        first_byte: some(seconds[0]),
        handshake: some(seconds[1]),
        frame: some(seconds[2]),
        idle: some(seconds[3]),
        body: None,
        message: None,
        write: some(seconds[4]),
    })
}

fn table(ticks: &Ticks) -> ConnTable<u32> {
    ConnTable::new(ticks.horizon)
}

const IDLE: (ParkReason, bool) = (ParkReason::Idle, true);

#[test]
fn an_event_of_an_active_connection_is_kept_until_it_is_parked() {
    let ticks = ticks([8; 5]);
    let mut table = table(&ticks);
    let key = table.insert(PerIpPermit::UNCOUNTED);
    assert_eq!(table.deliver(key, Events::READABLE), Delivery::Noted);
    assert!(table.next_ready().is_none());
    assert_eq!(table.park(key, 7, IDLE, &ticks), Delivery::Ready);
    let (ready, parked_state, input) = table.next_ready().unwrap();
    assert_eq!((ready, parked_state, input.events), (key, 7, Events::READABLE));
    assert!(table.next_ready().is_none());
    // A turn takes each event once.
    assert_eq!(table.park(key, 7, IDLE, &ticks), Delivery::Noted);
}

#[test]
fn readability_does_not_wake_a_wait_to_write_and_stays() {
    let ticks = ticks([8; 5]);
    let mut table = table(&ticks);
    let key = table.insert(PerIpPermit::UNCOUNTED);
    table.park(key, 7, (ParkReason::Write, true), &ticks);
    assert_eq!(table.deliver(key, Events::READABLE | Events::PUSHED), Delivery::Noted);
    assert_eq!(table.deliver(key, Events::WRITABLE), Delivery::Ready);
    let (_, _, input) = table.next_ready().unwrap();
    assert!(input.events.any(Events::READABLE) && input.events.any(Events::PUSHED));
}

#[test]
fn a_suspended_turn_takes_events_once_and_a_requested_close_each_time() {
    let ticks = ticks([8; 5]);
    let mut table = table(&ticks);
    let key = table.insert(PerIpPermit::UNCOUNTED);
    table.deliver(key, Events::READABLE | Events::WRITABLE);
    assert_eq!(table.take_events(key, Events::READABLE), Events::READABLE);
    table.request_close(key, CloseReason::Shutdown);
    assert_eq!(table.take_events(key, Events::READABLE), Events::CLOSE_REQUESTED);
    assert_eq!(table.take_events(key, Events::READABLE), Events::CLOSE_REQUESTED);
    assert!(table.has(key, Events::WRITABLE) && !table.has(key, Events::READABLE));
    assert_eq!(table.park(key, 7, IDLE, &ticks), Delivery::Ready);
}

#[test]
fn a_key_does_not_outlive_its_connection() {
    let ticks = ticks([8; 5]);
    let mut table = table(&ticks);
    let old = table.insert(PerIpPermit::UNCOUNTED);
    table.remove(old);
    let new = table.insert(PerIpPermit::UNCOUNTED);
    assert_eq!(old.index, new.index, "the entry is used again");
    table.park(new, 7, IDLE, &ticks);
    assert_eq!(table.deliver(old, Events::READABLE), Delivery::Gone);
    assert_eq!(table.request_close(old, CloseReason::ClosedByServer), Delivery::Gone);
    assert!(table.take(old).is_none() && table.next_ready().is_none());
    assert_eq!(table.park(old, 8, IDLE, &ticks), Delivery::Gone);
    table.remove(old);
    assert_eq!((table.open(), table.parked()), (1, 1));
}

#[test]
fn a_deadline_is_never_early_and_a_tick_late_at_most() {
    // A tick is a second here. The horizon is two ticks, because a linger lasts a second.
    let seconds = [8, 16, 24, 100, 9];
    let ticks = ticks(seconds);
    let waits = [
        ParkReason::FirstByte,
        ParkReason::Handshake,
        ParkReason::Frame,
        ParkReason::Idle,
        ParkReason::Write,
    ];
    for start in [0, 1, 5, 63, 64, 65, 1_000] {
        for (park_reason, seconds) in waits.into_iter().zip(seconds) {
            let mut table = table(&ticks);
            let key = table.insert(PerIpPermit::UNCOUNTED);
            (0..start).for_each(|_| table.tick(|_| panic!("nothing is due")));
            table.park(key, 7, (park_reason, true), &ticks);
            let mut passed = 0;
            while table.ready() == 0 {
                table.tick(|_| {});
                passed += 1;
            }
            let full = (seconds * 1000).div_ceil(ticks.tick.as_millis() as u64);
            assert!((full..=full + 1).contains(&passed), "{park_reason:?} from {start}: {passed}");
            let (_, _, input) = table.next_ready().unwrap();
            assert_eq!(input.expired, Some(park_reason.deadline()));
        }
    }
}

#[test]
fn only_a_moved_wait_begins_its_deadline_anew() {
    let ticks = ticks([8; 5]);
    let mut table = table(&ticks);
    let (moved, kept) =
        (table.insert(PerIpPermit::UNCOUNTED), table.insert(PerIpPermit::UNCOUNTED));
    table.park(moved, 0, (ParkReason::Frame, true), &ticks);
    table.park(kept, 1, (ParkReason::Frame, true), &ticks);
    let mut ended = HashMap::new();
    for tick in 1..200u32 {
        table.tick(|key| {
            ended.insert(key, tick);
        });
        while table.next_ready().is_some() {}
        for (key, begins_anew) in [(moved, tick <= 90), (kept, false)] {
            if !ended.contains_key(&key) && tick % 5 == 0 {
                table.deliver(key, Events::READABLE);
                let (key, parked_state, _) = table.next_ready().unwrap();
                table.park(key, parked_state, (ParkReason::Frame, begins_anew), &ticks);
            }
        }
    }
    let full = 8_000 / ticks.tick.as_millis() as u32;
    assert!((full..=full + 1).contains(&ended[&kept]), "{}", ended[&kept]);
    assert!((90 + full..=91 + full).contains(&ended[&moved]), "{}", ended[&moved]);
}

#[test]
fn without_deadlines_nothing_expires() {
    let ticks = ticks([0; 5]);
    let mut table = table(&ticks);
    let key = table.insert(PerIpPermit::UNCOUNTED);
    table.park(key, 7, IDLE, &ticks);
    (0..10_000).for_each(|_| table.tick(|_| panic!("nothing is due")));
}

#[test]
fn ticks_may_wrap() {
    let ticks = ticks([8; 5]);
    let mut table = table(&ticks);
    for start in [NEVER - 200, NEVER - 70, NEVER - 65, NEVER - 64, NEVER - 1, NEVER] {
        table.wheel.now = start;
        let key = table.insert(PerIpPermit::UNCOUNTED);
        table.park(key, 7, IDLE, &ticks);
        let mut passed = 0;
        while table.ready() == 0 {
            table.tick(|_| {});
            passed += 1;
            assert!(passed < 200, "from {start}");
        }
        assert!(passed >= ticks.horizon - 1, "from {start}: {passed}");
        table.next_ready().unwrap();
        table.remove(key);
        // Takes the entry off the wheel before `now` jumps: the wheel expects consecutive ticks.
        (0..100).for_each(|_| table.tick(|_| {}));
    }
}

#[test]
fn entries_are_used_again() {
    let ticks = ticks([8; 5]);
    let mut table = table(&ticks);
    for round in 0..100_000 {
        let key = table.insert(PerIpPermit::UNCOUNTED);
        table.park(key, 0, IDLE, &ticks);
        if round % 100 == 0 {
            table.tick(|_| {});
        }
        table.remove(key);
    }
    assert_eq!(table.chunks.len(), 1);
    assert_eq!((table.open(), table.parked()), (0, 0));
}

#[test]
fn the_close_reason_of_the_higher_rank_stays() {
    let ticks = ticks([8; 5]);
    let mut table = table(&ticks);
    let key = table.insert(PerIpPermit::UNCOUNTED);
    table.request_close(key, CloseReason::Shutdown);
    table.request_close(key, CloseReason::SlowReader);
    table.request_close(key, CloseReason::ClosedByServer);
    table.park(key, 7, IDLE, &ticks);
    assert_eq!(table.next_ready().unwrap().2.close_requested, Some(CloseReason::SlowReader));
    // The request stays, so each later turn learns of it.
    table.park(key, 7, IDLE, &ticks);
    table.deliver(key, Events::READABLE);
    assert_eq!(table.next_ready().unwrap().2.close_requested, Some(CloseReason::SlowReader));
}

#[test]
fn a_deadline_expires_once() {
    let ticks = ticks([8; 5]);
    let mut table = table(&ticks);
    let key = table.insert(PerIpPermit::UNCOUNTED);
    table.park(key, 7, IDLE, &ticks);
    while table.ready() == 0 {
        table.tick(|_| {});
    }
    assert_eq!(table.next_ready().unwrap().2.expired, Some(Deadline::Idle));
    table.park(key, 7, IDLE, &ticks);
    table.deliver(key, Events::READABLE);
    assert_eq!(table.next_ready().unwrap().2.expired, None);
}

#[test]
fn an_expired_deadline_leaves_the_requested_close() {
    let ticks = ticks([8; 5]);
    let mut table = table(&ticks);
    let key = table.insert(PerIpPermit::UNCOUNTED);
    table.request_close(key, CloseReason::Shutdown);
    table.request_close(key, CloseReason::ClosedByServer);
    table.request_close(key, CloseReason::Shutdown);
    table.park(key, 7, IDLE, &ticks);
    assert_eq!(table.next_ready().unwrap().2.close_requested, Some(CloseReason::ClosedByServer));
    table.park(key, 7, (ParkReason::Write, true), &ticks);
    while table.ready() == 0 {
        table.tick(|_| {});
    }
    let input = table.next_ready().unwrap().2;
    assert_eq!(
        (input.expired, input.close_requested),
        (Some(Deadline::Write), Some(CloseReason::ClosedByServer))
    );
    table.park(key, 7, (ParkReason::Write, true), &ticks);
    table.deliver(key, Events::WRITABLE);
    assert_eq!(table.next_ready().unwrap().2.close_requested, Some(CloseReason::ClosedByServer));
}

#[derive(Debug, Clone)]
enum Step {
    Insert,
    Park(usize, u8, bool),
    Events(usize, u8),
    RequestClose(usize),
    Next,
    Take(usize),
    /// Gives an active connection a task, or takes it from a task that does not wait.
    Task(usize),
    /// Ends a task's wait, or begins one.
    TaskWaits(usize, u8, bool),
    Remove(usize),
    Tick(u8),
    DrainParked,
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..6usize;
    prop_oneof![
        3 => Just(Step::Insert),
        6 => (which.clone(), 0..7u8, any::<bool>()).prop_map(|(n, w, m)| Step::Park(n, w, m)),
        6 => (which.clone(), 0..4u8).prop_map(|(n, signal)| Step::Events(n, signal)),
        1 => which.clone().prop_map(Step::RequestClose),
        4 => Just(Step::Next),
        1 => which.clone().prop_map(Step::Take),
        2 => which.clone().prop_map(Step::Task),
        6 => (which.clone(), 0..7u8, any::<bool>()).prop_map(|(n, w, m)| Step::TaskWaits(n, w, m)),
        1 => which.prop_map(Step::Remove),
        3 => (1..90u8).prop_map(Step::Tick),
        1 => Just(Step::DrainParked),
    ]
}

const REASONS: [ParkReason; 7] = [
    ParkReason::FirstByte,
    ParkReason::Handshake,
    ParkReason::Idle,
    ParkReason::Warm,
    ParkReason::Frame,
    ParkReason::Write,
    ParkReason::Turn,
];

enum Held {
    Number(u32),
    Task(Arc<TaskEntry>),
}

impl ParkedState for Held {
    fn task(&self) -> Option<&Arc<TaskEntry>> {
        match self {
            Self::Number(_) => None,
            Self::Task(task) => Some(task),
        }
    }
}

fn number(held: Held) -> u32 {
    match held {
        Held::Number(number) => number,
        Held::Task(_) => panic!("a connection with a task is in no queue"),
    }
}

/// A connection in the model.
struct Known {
    key: ConnKey,
    /// `None` while it is active, or has a task.
    parked: Option<(u32, ParkReason)>,
    /// The task, and whether it waits.
    task: Option<(Arc<TaskEntry>, bool)>,
    events: Events,
    due: Option<u32>,
    park_reason: ParkReason,
    /// The tick of the last park.
    since: u32,
    /// Whether the timer has told it of that park already.
    is_told: bool,
}

impl Known {
    /// Notes a wait: a deadline begins anew if the turn has `moved` it, or with a new reason.
    fn waits(&mut self, (park_reason, moved): (ParkReason, bool), ticks: &Ticks, now: u32) {
        let is_turn = park_reason == ParkReason::Turn;
        if moved || park_reason.wait() != self.park_reason.wait() && !is_turn {
            let end = ticks.end(park_reason, now);
            self.due = (end != NEVER).then_some(end);
        }
        if moved || !is_turn {
            self.park_reason = park_reason;
        }
        (self.since, self.is_told) = (now, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// A connection is ready exactly if it is parked and waits for an event that has come. Ready
    /// connections come in the order in which they became ready. Deadlines expire in their tick.
    /// Each turn gets the state of its own connection.
    #[test]
    fn the_table_agrees_with_the_model(steps in prop::collection::vec(step(), 1..120)) {
        let ticks = ticks([8, 10, 9, 40, 12]);
        let mut table = ConnTable::<Held>::new(ticks.horizon);
        let mut known: Vec<Known> = Vec::new();
        let mut ready: VecDeque<ConnKey> = VecDeque::new();
        let mut parked_state = 0;
        let mut now = 0u32;
        for step in steps {
            match step {
                Step::Insert => {
                    let key = table.insert(PerIpPermit::UNCOUNTED);
                    prop_assert!(known.iter().all(|other| other.key != key));
                    let park_reason = ParkReason::FirstByte;
                    known.push(Known { key, parked: None, task: None, events: Events::NONE, due: None, park_reason, since: 0, is_told: false });
                }
                Step::Park(n, park_reason, moved) => {
                    let Some(one) = known.get_mut(n).filter(|one| one.parked.is_none() && one.task.is_none()) else { continue };
                    let park_reason = REASONS[park_reason as usize];
                    parked_state += 1;
                    one.waits((park_reason, moved), &ticks, now);
                    one.parked = Some((parked_state, park_reason));
                    let delivery = table.park(one.key, Held::Number(parked_state), (park_reason, moved), &ticks);
                    let expected = park_reason.wakes_on(one.events);
                    prop_assert_eq!(delivery == Delivery::Ready, expected);
                    if expected {
                        ready.push_back(one.key);
                    }
                }
                Step::Events(n, signal) => {
                    let Some(one) = known.get_mut(n) else { continue };
                    let signal = [Events::READABLE, Events::CLOSING, Events::WRITABLE, Events::PUSHED][signal as usize];
                    one.events = one.events | signal;
                    table.deliver(one.key, signal);
                    if one.parked.is_some_and(|(_, park_reason)| park_reason.wakes_on(one.events)) && !ready.contains(&one.key) {
                        ready.push_back(one.key);
                    }
                }
                Step::RequestClose(n) => {
                    let Some(one) = known.get_mut(n) else { continue };
                    one.events = one.events | Events::CLOSE_REQUESTED;
                    table.request_close(one.key, CloseReason::ClosedByServer);
                    if one.parked.is_some() && !ready.contains(&one.key) {
                        ready.push_back(one.key);
                    }
                }
                Step::Next => {
                    let next = table.next_ready();
                    prop_assert_eq!(next.as_ref().map(|next| next.0), ready.pop_front());
                    let Some((key, parked_state, input)) = next else { continue };
                    let one = known.iter_mut().find(|one| one.key == key).unwrap();
                    prop_assert_eq!(one.parked.take().map(|(parked_state, _)| parked_state), Some(number(parked_state)));
                    prop_assert_eq!(input.events, one.events);
                    one.events = Events::NONE;
                }
                Step::Take(n) => {
                    let Some(one) = known.get_mut(n) else { continue };
                    if one.task.is_some() { continue }
                    let taken = table.take(one.key).map(number);
                    prop_assert_eq!(taken, one.parked.take().map(|(parked_state, _)| parked_state));
                    if taken.is_some() {
                        one.events = Events::NONE;
                        ready.retain(|key| *key != one.key);
                    }
                }
                Step::Task(n) => {
                    let Some(one) = known.get_mut(n).filter(|one| one.parked.is_none()) else { continue };
                    match one.task.take() {
                        None => {
                            let task = table.begin_task(one.key, Waker::noop().clone(), Held::Task).unwrap();
                            one.task = Some((task, false));
                        }
                        Some((_, false)) => table.end_task(one.key),
                        waits => one.task = waits,
                    }
                }
                Step::TaskWaits(n, park_reason, moved) => {
                    let Some(one) = known.get_mut(n) else { continue };
                    let Some((task, waits)) = one.task.clone() else { continue };
                    one.task = Some((task.clone(), !waits));
                    let park_reason = REASONS[park_reason as usize];
                    if !waits {
                        task.park((park_reason, moved), &ticks);
                        one.waits((park_reason, moved), &ticks, now);
                        prop_assert_eq!(task.is_ready(), park_reason.wakes_on(one.events) || one.park_reason.wakes_on(one.events));
                        continue;
                    }
                    let close_requested = table.close_requested(one.key);
                    let input = task.resume(|| close_requested);
                    prop_assert_eq!(input.close_requested, close_requested);
                    prop_assert_eq!(input.events, std::mem::replace(&mut one.events, Events::NONE));
                    prop_assert_eq!(input.expired.is_some(), one.due.is_some_and(|due| due <= now));
                }
                Step::Remove(n) => {
                    if n >= known.len() { continue }
                    let one = known.swap_remove(n);
                    ready.retain(|key| *key != one.key);
                    let released = table.remove(one.key).unwrap().1;
                    prop_assert_eq!(one.task.is_some(), matches!(released, Some(Held::Task(_))));
                    let released = released.filter(|_| one.task.is_none()).map(number);
                    prop_assert_eq!(released, one.parked.map(|(parked_state, _)| parked_state));
                }
                Step::Tick(count) => {
                    for _ in 0..count {
                        now += 1;
                        let mut due = Vec::new();
                        table.tick(|key| due.push(key));
                        for one in &mut known {
                            let waits = one.task.as_ref().is_some_and(|(_, waits)| *waits);
                            let parked = waits || one.parked.is_some() && !ready.contains(&one.key);
                            let is_due = parked && one.due.is_some_and(|due| due <= now);
                            prop_assert_eq!(due.contains(&one.key), is_due, "at {} due {:?}", now, one.due);
                            if is_due {
                                one.events = one.events | Events::CLOSE_REQUESTED;
                            }
                        }
                        let has_task = |key: &ConnKey| known.iter().any(|one| one.key == *key && one.task.is_some());
                        due.retain(|key| !has_task(key));
                        ready.extend(due);
                        let mut told = Vec::new();
                        table.cool(|key| told.push(key));
                        for one in &mut known {
                            let waits = one.task.as_ref().is_some_and(|(_, waits)| *waits);
                            let parked = waits || one.parked.is_some() && !ready.contains(&one.key);
                            let is_warm = parked && one.park_reason == ParkReason::Warm;
                            let is_cool = is_warm && !one.is_told && now - one.since >= u32::from(COOL_TICKS);
                            let times = told.iter().filter(|key| **key == one.key).count();
                            prop_assert_eq!(times, usize::from(is_cool), "at {} since {}", now, one.since);
                            if is_cool {
                                one.is_told = true;
                                one.events = one.events | Events::COOL;
                            }
                        }
                        told.retain(|key| known.iter().any(|one| one.key == *key && one.task.is_none()));
                        ready.extend(told);
                    }
                }
                Step::DrainParked => {
                    let (drained, wakers) = table.drain_parked();
                    let mut drained: Vec<_> = drained.into_iter().map(|(key, held)| (key, number(held))).collect();
                    prop_assert_eq!(wakers.len(), known.iter().filter(|one| one.task.is_some()).count());
                    drained.sort_by_key(|(key, _)| key.index);
                    let mut expected: Vec<_> = known
                        .iter_mut()
                        .filter_map(|one| one.parked.take().map(|(parked_state, _)| (one.key, parked_state)))
                        .collect();
                    expected.sort_by_key(|(key, _)| key.index);
                    prop_assert_eq!(drained, expected);
                    ready.clear();
                    known.iter_mut().for_each(|one| if one.parked.is_none() { one.events = Events::NONE });
                    // Connections that were active before keep their events. The model cannot tell
                    // them from the others now, so the case ends.
                    return Ok(());
                }
            }
            prop_assert_eq!(table.open(), known.len());
            prop_assert_eq!(table.parked(), known.iter().filter(|one| one.parked.is_some()).count());
            prop_assert_eq!(table.ready() > 0, !ready.is_empty());
        }
    }
}
