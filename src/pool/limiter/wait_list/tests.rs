//! What the wait list does by itself.

use std::collections::{HashMap, HashSet, VecDeque};
use std::task::Waker;

use proptest::prelude::*;

use super::{
    CallerWaiter, List, NO_GROUP, NONE, PRIORITIES, Requirements, UNLINKED, WaitList, Waiter,
    WaiterKey, WaiterState,
};
use crate::pool::options::Priority;
use crate::pool::timings::now;

fn waiting_caller() -> CallerWaiter {
    CallerWaiter {
        waker: Some(Waker::noop().clone()),
        waiting_job: None,
        state: WaiterState::Waiting,
        group: NO_GROUP,
        label: None,
        is_reserver: false,
    }
}

fn caller(list: &mut WaitList, at: List, is_reserver: bool) -> WaiterKey {
    let caller = CallerWaiter { is_reserver, ..waiting_caller() };
    let quota = match at {
        List::Main => None,
        List::Quota(key) => Some(key),
        _ => unreachable!("a caller does not resume"),
    };
    list.push(at, quota, Waiter::Caller(caller), (&Requirements::default(), now()), false)
}

/// Puts a caller in the main list.
fn caller_with(list: &mut WaitList, requirements: Requirements) -> WaiterKey {
    let caller = CallerWaiter::rejected(WaiterState::Waiting);
    list.push(List::Main, None, caller, (&requirements, now()), false)
}

#[test]
fn a_caller_advances_along_the_arrows_only() {
    use WaiterState::{Closed, Deadlock, QueueGranted, SlotGranted, Waiting};
    let all = [Waiting, QueueGranted, SlotGranted, Closed, Deadlock];
    let next = |state: WaiterState| all.into_iter().filter(move |&to| state.may_become(to));
    assert!(next(Waiting).eq([QueueGranted, SlotGranted, Closed, Deadlock]));
    assert!(next(QueueGranted).eq([SlotGranted, Closed]));
    for end in [SlotGranted, Closed, Deadlock] {
        assert_eq!(next(end).count(), 0, "{end:?}");
    }
}

#[test]
fn a_waiter_is_written_over_one_that_left() {
    let mut list = WaitList::new(0);
    let quota = list.add_quota(1);
    let requirements = Requirements { deadline: Some(now()), key: Some(1), ..Default::default() };
    let full = CallerWaiter { is_reserver: true, ..waiting_caller() };
    let terms = (&requirements, now());
    let old = list.push(List::Quota(quota), Some(quota), Waiter::Caller(full), terms, true);
    list.nodes[old].submitter = Some(NO_GROUP);
    list.unlink(old);
    list.remove(old);
    assert_eq!((list.waiting(), list.waiting_reservers(), list.has_deadlines()), (0, 0, false));
    assert!(list.get_linked(old).is_none());

    let since = now();
    assert_eq!(list.next_key(), old);
    let plain = Waiter::Caller(waiting_caller());
    let new = list.push(List::Main, None, plain, (&Requirements::default(), since), false);
    assert_eq!((new, list.waiting(), list.waiting_reservers()), (old, 1, 0));
    let node = &list.nodes[new];
    assert_eq!(
        (node.list, node.prev, node.next, node.in_queue),
        (Some(List::Main), NONE, NONE, false)
    );
    assert_eq!((node.quota, node.resumes, node.submitter), (None, None, None));
    assert_eq!((node.nested, node.is_rare, node.link), (0, false, UNLINKED));
    assert_eq!((node.requirements, node.since), (Requirements::default(), since));
}

#[test]
fn the_queue_is_the_front_of_the_main_list() {
    let mut list = WaitList::new(2);
    let keys = [0; 4].map(|_| caller(&mut list, List::Main, false));
    assert_eq!(list.enter_queue(), Some(keys[0]));
    assert_eq!(list.enter_queue(), Some(keys[1]));
    assert_eq!(list.enter_queue(), None);
    // A waiter behind the queue leaves, then a waiter in the queue.
    list.unlink(keys[2]);
    assert_eq!(list.enter_queue(), None);
    list.unlink(keys[0]);
    assert_eq!(list.enter_queue(), Some(keys[3]));
    assert_eq!(list.head(List::Main), Some(keys[1]));
    assert_eq!(list.waiter_keys(), [keys[1], keys[3]]);
}

#[test]
fn a_waiter_behind_the_last_one_is_the_next_for_the_queue() {
    let mut list = WaitList::new(1);
    let first = caller(&mut list, List::Main, false);
    assert_eq!(list.enter_queue(), Some(first));
    let second = caller(&mut list, List::Main, true);
    list.unlink(second);
    assert_eq!(list.waiting_reservers(), 1);
    list.remove(second);
    assert_eq!(list.waiting_reservers(), 0);
    let third = caller(&mut list, List::Main, false);
    list.unlink(first);
    assert_eq!(list.enter_queue(), Some(third));
}

#[test]
fn a_released_part_of_a_quota_goes_to_its_oldest_waiter() {
    let mut list = WaitList::new(1);
    let quota = list.add_quota(1);
    assert_eq!(list.list_for(Some(quota)), List::Main);
    list.acquire_quota(quota);
    assert_eq!(list.list_for(Some(quota)), List::Quota(quota));
    let keys = [0; 2].map(|_| caller(&mut list, List::Quota(quota), false));
    list.remove_quota_when_unused(quota);
    assert_eq!(list.release_quota(quota), Some(keys[0]));
    assert_eq!(list.quota_in_use(quota), 1);
    assert_eq!(list.release_quota(quota), Some(keys[1]));
    assert_eq!(list.release_quota(quota), None);
    // The last part took the quota along.
    assert_eq!(list.add_quota(2), quota);
    assert!(list.has_quota_room(quota));
}

type Keys = VecDeque<(Option<u64>, VecDeque<WaiterKey>)>;

/// What waits in a priority, as the head of `fair` tells it.
#[derive(Default)]
struct Model {
    /// The waiters, before the first key came.
    plain: VecDeque<WaiterKey>,
    has_keys: bool,
    fresh: Keys,
    old: Keys,
    passed: u32,
    turn: usize,
    last_turns: HashMap<Option<u64>, usize>,
}

impl Model {
    fn waiters(&self) -> impl Iterator<Item = WaiterKey> {
        let keyed = self.fresh.iter().chain(&self.old).flat_map(|(_, waiters)| waiters);
        self.plain.iter().chain(keyed).copied()
    }

    fn push(&mut self, key: Option<u64>, waiter_key: WaiterKey) {
        if key.is_some() && !std::mem::replace(&mut self.has_keys, true) && !self.plain.is_empty() {
            self.old.push_back((None, std::mem::take(&mut self.plain)));
        }
        if !self.has_keys {
            return self.plain.push_back(waiter_key);
        }
        match self.fresh.iter_mut().chain(&mut self.old).find(|(of, _)| *of == key) {
            Some((_, waiters)) => waiters.push_back(waiter_key),
            None => {
                let others = self.fresh.len() + self.old.len();
                let last = self.last_turns.get(&key);
                let is_old = last.is_some_and(|last| self.turn - last < others);
                let ring = if is_old { &mut self.old } else { &mut self.fresh };
                ring.push_back((key, [waiter_key].into()));
            }
        }
    }

    fn is_old_turn(&self) -> bool {
        self.fresh.is_empty() || (!self.old.is_empty() && self.passed >= 63)
    }

    /// The waiters of the key that has the next turn.
    fn next(&self) -> Option<&VecDeque<WaiterKey>> {
        if !self.has_keys {
            return Some(&self.plain).filter(|plain| !plain.is_empty());
        }
        let ring = if self.is_old_turn() { &self.old } else { &self.fresh };
        ring.front().map(|(_, waiters)| waiters)
    }

    fn note_turn(&mut self) {
        if !self.has_keys {
            return;
        }
        self.turn += 1;
        let served = if self.is_old_turn() {
            self.passed = 0;
            self.old.pop_front()
        } else {
            self.passed = if self.old.is_empty() { 0 } else { self.passed + 1 };
            self.fresh.pop_front()
        };
        let served = served.expect("a key waits");
        self.last_turns.insert(served.0, self.turn);
        self.old.push_back(served);
    }

    fn leave(&mut self, waiter_key: WaiterKey) {
        let lists = self.fresh.iter_mut().chain(&mut self.old).map(|(_, waiters)| waiters);
        lists.chain([&mut self.plain]).for_each(|list| list.retain(|&key| key != waiter_key));
        self.fresh.retain(|(_, waiters)| !waiters.is_empty());
        self.old.retain(|(_, waiters)| !waiters.is_empty());
        if self.waiters().next().is_none() {
            self.has_keys = false;
            self.last_turns.clear();
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Push(usize, Option<u64>),
    Serve,
    Leave(usize),
    EnterQueue,
}

fn op() -> impl Strategy<Value = Op> {
    // Eight keys never share a turn.
    let key = prop_oneof![1 => Just(None), 2 => (0..8_u64).prop_map(Some)];
    prop_oneof![
        4 => (prop_oneof![3 => Just(2), 1 => Just(0), 1 => Just(4)], key)
            .prop_map(|(class, key)| Op::Push(class, key)),
        3 => Just(Op::Serve),
        1 => any::<usize>().prop_map(Op::Leave),
        1 => Just(Op::EnterQueue),
    ]
}

proptest! {
    /// Random waiters with and without keys, in three priorities: the next one, and the newest one of the
    /// same key, are those of a list that is written down plainly. A queue changes nothing.
    #[test]
    fn keys_take_turns_like_in_the_model(
        ops in prop::collection::vec(op(), 1..400),
        capacity in prop_oneof![Just(0_usize), Just(3), Just(100)],
    ) {
        let mut list = WaitList::new(capacity);
        let mut models: [Model; PRIORITIES] = Default::default();
        let (mut passed, mut queued) = ([0; PRIORITIES], HashSet::new());
        for op in ops {
            let waits = |class: &usize| models[*class].next().is_some();
            let highest = (0..PRIORITIES).rev().find(waits).unwrap_or(0);
            let overdue = (0..PRIORITIES).filter(|class| waits(class) && passed[*class] >= 12);
            let class = overdue.max_by_key(|&class| passed[class]).unwrap_or(highest);
            let next = models[class].next().map(|waiters| waiters[0]);
            prop_assert_eq!(list.head(List::Main), next);
            let newest = models[class].next().and_then(|waiters| waiters.back().copied());
            prop_assert_eq!(list.newest(), newest.filter(|newest| !queued.contains(newest)));
            let mut left = None;
            match (op, next) {
                (Op::Push(class, key), _) => {
                    let priority = [Priority::Background, Priority::Normal, Priority::Critical][class / 2];
                    let requirements = Requirements { priority, key, ..Requirements::default() };
                    let waiter_key = caller_with(&mut list, requirements);
                    models[class].push(key, waiter_key);
                }
                (Op::Serve, Some(next)) => {
                    list.note_turn(next);
                    passed[class] = 0;
                    for lower in 0..class {
                        passed[lower] += u32::from(models[lower].next().is_some());
                    }
                    models[class].note_turn();
                    left = Some(next);
                }
                (Op::Leave(nth), Some(_)) => {
                    let all: Vec<_> = models.iter().flat_map(Model::waiters).collect();
                    left = Some(all[nth % all.len()]);
                }
                (Op::EnterQueue, _) => queued.extend(list.enter_queue()),
                _ => {}
            }
            if let Some(left) = left {
                list.unlink(left);
                list.remove(left);
                queued.remove(&left);
                for model in &mut models {
                    model.leave(left);
                }
            }
            prop_assert_eq!(list.main_len(), models.iter().flat_map(Model::waiters).count());
        }
    }
}

/// What comes before a caller: its own key counts whole, and of the others one for each of these.
#[test]
fn the_line_before_a_key_is_its_own() {
    let mut list = WaitList::new(0);
    let with = |key| Requirements { key, ..Requirements::default() };
    let ahead = |list: &WaitList, requirements| {
        let ahead = list.ahead_of(&requirements);
        (ahead.own, ahead.higher)
    };
    let line = |list: &WaitList, waiter| {
        let line = list.line_of(waiter);
        (line.own, line.higher)
    };
    let plain: Vec<_> = (0..10).map(|_| caller_with(&mut list, with(None))).collect();
    assert_eq!(ahead(&list, with(None)), (10, 0));
    assert_eq!(ahead(&list, with(Some(1))), (1, 0));
    assert_eq!(line(&list, plain[0]), (10, 0));
    let flood: Vec<_> = (0..100).map(|_| caller_with(&mut list, with(Some(1)))).collect();
    assert_eq!(ahead(&list, with(None)), (22, 0));
    assert_eq!(ahead(&list, with(Some(1))), (110, 0));
    assert_eq!(ahead(&list, with(Some(2))), (1, 0), "the other fresh key");
    assert_eq!((line(&list, plain[0]), line(&list, flood[0])), ((20, 0), (110, 0)));
    let high = Requirements { priority: Priority::High, ..with(None) };
    (0..5).for_each(|_| {
        caller_with(&mut list, high);
    });
    assert_eq!(ahead(&list, with(Some(2))), (1, 5));
    assert_eq!(ahead(&list, high), (5, 0));
    assert_eq!(line(&list, flood[0]), (110, 5));
}
