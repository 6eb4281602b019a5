//! What a program must not drop.
#![warn(unused_must_use)]

use std::time::Duration;

use millpond::layer::PoolLayer;
use millpond::{Group, Pool};

pub async fn pools(pool: Pool) {
    Pool::builder(); //~ a builder does nothing until `build`
    pool.schedule(async {}); //~ futures do nothing unless polled
    pool.schedule_owned(async {}); //~ futures do nothing unless polled
    pool.try_go(async {}); //~ futures do nothing unless polled
    pool.try_go_owned(async {}); //~ futures do nothing unless polled
    pool.reserve(); //~ must be used
    pool.wait_idle(); //~ must be used
    pool.shutdown(Duration::ZERO); //~ must be used
    pool.shutdown(Duration::ZERO).await; //~ tell whether the jobs could finish
    pool.try_schedule(async {}); //~ must be used
    pool.try_schedule(async {}).unwrap(); //~ dropping a handle detaches its job
    pool.try_schedule(async {}).unwrap().abort_on_drop(); //~ dropping it aborts the job
    pool.anyway_go(async {}).unwrap(); //~ dropping it detaches the job
    pool.try_reserve().unwrap(); //~ dropping it gives the slot back
    pool.hold_slot(); //~ dropping the guard gives the slot back when the job ends
    pool.hold_slot().unwrap(); //~ dropping it gives the slot back when the job ends
    pool.reserver(); //~ dropping it gives its slot back
    millpond::blocking(|| {}); //~ futures do nothing unless polled
    PoolLayer::schedule(&pool); //~ a layer does nothing until it wraps a service
}

pub async fn groups(pool: Pool, group: Group<u8>) {
    pool.group_builder::<u8>(); //~ a builder does nothing until `build`
    group.schedule(async { 1 }); //~ futures do nothing unless polled
    group.schedule_owned(async { 1 }); //~ futures do nothing unless polled
    group.try_go(async { 1 }); //~ futures do nothing unless polled
    group.try_go_owned(async { 1 }); //~ futures do nothing unless polled
    group.wait(); //~ futures do nothing unless polled
    group.wait_or_cancel_on_failure(); //~ futures do nothing unless polled
    group.try_join(); //~ futures do nothing unless polled
    group.next(); //~ futures do nothing unless polled
    group.outcomes(); //~ streams do nothing unless polled
    pool.map([async { 1 }], 2, |job| job); //~ streams do nothing unless polled
}
