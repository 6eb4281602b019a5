//! What the wait list does by itself.

use std::task::Waker;

use super::{CallerWaiter, List, NO_GROUP, Requirements, WaitList, Waiter, WaiterKey, WaiterState};

fn caller(list: &mut WaitList, at: List, is_reserver: bool) -> WaiterKey {
    let caller = CallerWaiter {
        waker: Some(Waker::noop().clone()),
        waiting_job: None,
        state: WaiterState::Waiting,
        group: NO_GROUP,
        group_name: None,
        is_reserver,
    };
    let quota = match at {
        List::Main => None,
        List::Quota(key) => Some(key),
        _ => unreachable!("a caller does not resume"),
    };
    list.push(at, quota, Waiter::Caller(caller), Requirements::default(), false)
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
    list.remove_node(second);
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
