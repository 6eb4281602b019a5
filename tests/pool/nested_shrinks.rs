//! Deadlocks that come about otherwise than by one job too many.

use crate::nest::{Nest, nest};
use crate::support::*;
use millpond::{Pool, ScheduleError};

#[test]
fn a_shrink_that_makes_a_deadlock_is_noticed() {
    single(async {
        for early in [false, true] {
            let pool = Pool::new(3);
            let held = hold(&pool);
            let nested = [1, 2].map(|n| pool.try_schedule(nest(pool.clone(), n)).unwrap());
            settle().await;
            assert_eq!(law(&pool).waiting, 2);
            // The one job that can end takes its slot along.
            if early {
                pool.resize(2).unwrap();
                held.release().await;
            } else {
                pool.resize(1).unwrap();
                held.release().await;
            }
            let mut outcomes = Vec::new();
            for handle in nested {
                outcomes.push(soon(handle).await.unwrap());
            }
            assert!(outcomes.contains(&Nest::WouldDeadlock), "{outcomes:?}");
            whole(&pool).await;
        }
    });
}

#[test]
fn a_quota_can_deadlock_by_itself() {
    for quota in [1, 2] {
        single(async move {
            let pool = Pool::new(4);
            let group = pool.group_builder().quota(quota).build().unwrap();
            for _ in 0..quota {
                let own = group.clone();
                let job = async move {
                    match own.schedule(async { true }).await {
                        Ok(_) => true,
                        Err(ScheduleError::WouldDeadlock(_)) => false,
                        Err(error) => panic!("{error:?}"),
                    }
                };
                group.try_schedule(job).unwrap();
            }
            let outcomes = soon(group.wait()).await;
            let told = outcomes.iter().filter(|out| !*out.result.as_ref().unwrap()).count();
            assert_eq!(told, 1, "with a quota of {quota}");
            whole(&pool).await;
        });
    }
}
