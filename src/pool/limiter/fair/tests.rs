//! What the turns of keys do by themselves, where keys share buckets, too.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::*;

/// Serves the next waiter. Returns its key in the order of arrival.
fn serve(line: &mut FairLine, links: &mut BTreeMap<WaiterKey, LinkId>) -> WaiterKey {
    let waiter_key = line.head(0);
    let link = links.remove(&waiter_key).expect("the next one waits");
    line.note_turn(link);
    line.remove(link, waiter_key, 0);
    waiter_key
}

fn started() -> Box<FairLine> {
    let mut line = FairLine::new();
    line.start(0, 0);
    line
}

/// Each key that waits is served before any other has two more turns.
#[test]
fn few_keys_never_share_and_take_turns() {
    let (mut line, mut links) = (started(), BTreeMap::new());
    // One key floods, seven others have three waiters each.
    for waiter_key in 0..1_000 {
        links.insert(waiter_key, line.push(Some(0), waiter_key));
    }
    for waiter_key in 1_000..1_021 {
        let key = 1 + waiter_key as u64 % 7;
        links.insert(waiter_key, line.push(Some(key), waiter_key));
    }
    for _ in 0..3 {
        let round: HashSet<_> = (0..8)
            .map(|_| match serve(&mut line, &mut links) {
                waiter_key if waiter_key < 1_000 => 0,
                waiter_key => 1 + waiter_key % 7,
            })
            .collect();
        assert_eq!(round.len(), 8, "each key once in a round");
    }
    assert_eq!(line.keys, 1);
    (3..1_000).for_each(|waiter_key| assert_eq!(serve(&mut line, &mut links), waiter_key));
    assert_eq!((line.keys, line.links.len()), (0, 0));
}

/// A tenant that asks again after each turn has one turn in a round, like the one with a long line.
#[test]
fn a_key_that_asks_job_by_job_has_no_more_turns() {
    let (mut line, mut links) = (started(), BTreeMap::new());
    for waiter_key in 0..100 {
        links.insert(waiter_key, line.push(Some(0), waiter_key));
    }
    let mut turns = 0;
    for waiter_key in 100..200 {
        links.entry(waiter_key).or_insert_with(|| line.push(Some(1), waiter_key));
        while serve(&mut line, &mut links) < 100 {
            turns += 1;
        }
    }
    assert_eq!(turns, 100, "of the other key, in 100 rounds");
}

#[test]
fn fresh_keys_do_not_starve_the_others() {
    let (mut line, mut links) = (started(), BTreeMap::new());
    for waiter_key in 0..100 {
        links.insert(waiter_key, line.push(Some(0), waiter_key));
    }
    let mut turns = 0;
    for waiter_key in 100..100 + 64 * 100 {
        links.insert(waiter_key, line.push(Some(waiter_key as u64), waiter_key));
        turns += usize::from(serve(&mut line, &mut links) < 100);
    }
    // By chance, few of them have a place with one that had a turn.
    assert!((95..=101).contains(&turns), "{turns} turns in 100 times 64");
}

#[test]
fn a_hundred_keys_hardly_share() {
    let mut line = started();
    (0..100).for_each(|key| {
        line.push(Some(key), key as usize);
    });
    assert!(line.keys >= 97, "{} buckets for 100 keys", line.keys);
}

/// A key that shares the bucket of another one goes on to do so while it waits, also if a bucket of its own
/// would be free (F2).
#[test]
fn a_displaced_key_stays_where_it_waits() {
    let mut line = started();
    let set = |line: &FairLine, key| line.place_of(Some(key)).0 / WAYS;
    let mates: Vec<_> = (0..100_000).filter(|&key| set(&line, key) == 0).take(WAYS + 1).collect();
    let (&displaced, owners) = mates.split_last().unwrap();
    let owners: Vec<_> = owners.iter().map(|&key| line.push(Some(key), key as usize)).collect();
    let first = line.push(Some(displaced), 1_000_000);
    let home = line.bucket_of(first);
    let free = owners.iter().position(|&link| line.bucket_of(link) != home).unwrap();
    line.remove(owners[free], mates[free] as usize, 0);
    let second = line.push(Some(displaced), 1_000_001);
    assert_eq!(line.bucket_of(second), home);
    [first, second].into_iter().for_each(|link| line.remove(link, 1_000_000, 0));
    let third = line.push(Some(displaced), 1_000_002);
    assert_ne!(line.bucket_of(third), home, "now it has a bucket of its own");
}

#[test]
fn a_million_keys_have_one_table_and_none_starves() {
    let (mut line, mut links) = (started(), BTreeMap::new());
    for waiter_key in 0..1_000_000 {
        links.insert(waiter_key, line.push(Some(waiter_key as u64), waiter_key));
    }
    // The rest of the memory is that of the waiters, and goes with them.
    assert!(size_of_val(&*line) * PRIORITIES <= 64 * 1_024);
    assert_eq!(line.keys, BUCKETS);
    assert!(line.turns_before(None) <= BUCKETS);
    let longest = line.buckets.iter().map(|bucket| bucket.len).max();
    assert!(longest < Some(4_000), "{longest:?} of some 2,000");
    let late = line.push(None, 1_000_000);
    links.insert(1_000_000, late);
    let place = (0..).find(|_| serve(&mut line, &mut links) == 1_000_000).unwrap();
    let round = BUCKETS + BUCKETS / PASSES as usize;
    assert!(place <= round, "a fresh key waits for a round at most: {place}");
    while !links.is_empty() {
        serve(&mut line, &mut links);
    }
    assert_eq!((line.keys, line.links.len(), line.fronts), (0, 0, [NO_BUCKET; 2]));
    let is_free = |bucket: &Bucket| (bucket.len, bucket.displaced, bucket.ring) == (0, 0, None);
    assert!(line.buckets.iter().all(is_free));
}

#[test]
fn the_places_of_keys_are_new_after_the_line_was_empty() {
    let mut line = started();
    let places =
        |line: &FairLine| -> Vec<_> { (0..100).map(|key| line.place_of(Some(key)).0).collect() };
    let before = places(&line);
    assert_eq!(places(&line), before);
    line.start(0, 0);
    assert_ne!(places(&line), before);
    assert_ne!(places(&line), places(&started()), "and no other pool's");
}

/// The first waiters without a key have no links.
#[test]
fn older_waiters_without_a_key_are_one_key() {
    let mut line = FairLine::new();
    // Waiters 0 to 3, in this order.
    line.start(4, 3);
    let a = [10, 11].map(|waiter_key| line.push(Some(1), waiter_key));
    let late = line.push(None, 20);
    assert_eq!((line.keys, line.turns_before(None), line.turns_before(Some(1))), (2, 12, 5));
    let turn = |line: &mut FairLine, link, waiter_key, prev| {
        line.note_turn(link);
        line.remove(link, waiter_key, prev);
    };
    assert_eq!((line.head(0), line.newest()), (10, 11));
    turn(&mut line, a[0], 10, 3);
    assert_eq!((line.head(0), line.newest()), (0, 20));
    turn(&mut line, UNLINKED, 0, usize::MAX);
    assert_eq!((line.head(1), line.newest()), (11, 11));
    turn(&mut line, a[1], 11, 3);
    // One in the middle and the last one go away.
    line.remove(UNLINKED, 2, 1);
    line.remove(UNLINKED, 3, 1);
    assert_eq!(line.last_unlinked, 1);
    assert_eq!(line.head(1), 1);
    line.remove(late, 20, 11);
    assert_eq!(line.newest(), 1);
    turn(&mut line, UNLINKED, 1, usize::MAX);
    assert_eq!((line.keys, line.links.len()), (0, 0));
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Push(u64),
    Serve,
    Leave(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => any::<u64>().prop_map(Op::Push),
        2 => Just(Op::Serve),
        1 => any::<usize>().prop_map(Op::Leave),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 1_000, ..Default::default() })]

    /// However many keys share: the order within a key is first come, first served, and the counts are
    /// those of the waiters (F2, F3).
    #[test]
    fn a_key_is_first_come_first_served_where_it_shares(
        keys in prop_oneof![Just(8_u64), Just(600), Just(2_000)],
        ops in prop::collection::vec(op(), 1..3_000),
    ) {
        let (mut line, mut links) = (started(), BTreeMap::new());
        let mut waiting: HashMap<u64, VecDeque<WaiterKey>> = HashMap::new();
        let mut key_of = Vec::new();
        for op in ops {
            match op {
                Op::Push(key) => {
                    let (key, waiter_key) = (key % keys, key_of.len());
                    key_of.push(key);
                    links.insert(waiter_key, line.push(Some(key), waiter_key));
                    waiting.entry(key).or_default().push_back(waiter_key);
                }
                Op::Serve if !links.is_empty() => {
                    let waiter_key = serve(&mut line, &mut links);
                    let own = waiting.get_mut(&key_of[waiter_key]).unwrap();
                    prop_assert_eq!(own.pop_front(), Some(waiter_key));
                }
                Op::Leave(nth) if !links.is_empty() => {
                    let (&waiter_key, &link) = links.iter().nth(nth % links.len()).unwrap();
                    links.remove(&waiter_key);
                    line.remove(link, waiter_key, 0);
                    waiting.get_mut(&key_of[waiter_key]).unwrap().retain(|&own| own != waiter_key);
                }
                Op::Serve | Op::Leave(_) => {}
            }
        }
        prop_assert_eq!(line.links.len(), links.len());
        let mut buckets = vec![0; BUCKETS + 1];
        line.links.iter().for_each(|(_, link)| buckets[usize::from(link.bucket)] += 1);
        prop_assert!(buckets.iter().eq(line.buckets.iter().map(|bucket| &bucket.len)));
        let keys = buckets.iter().filter(|&&len| len > 0).count();
        prop_assert_eq!(line.keys, keys);
    }
}
