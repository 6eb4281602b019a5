//! Under load a quota is used up to its last share, and never exceeded.
#![allow(missing_docs)]

mod support;

use millpond::{Group, Pool};
use support::*;

fn tenant<T: Send + 'static>(pool: &Pool, quota: usize) -> Group<T> {
    pool.group_builder().quota(quota).build().unwrap()
}

#[test]
fn never_exceeded_and_always_used() {
    multi(2, async {
        let pool = Pool::builder().size(4).queue(2).build().unwrap();
        let total = Gauge::default();
        let tenants: Vec<_> =
            [1, 2, 3].map(|quota| (tenant(&pool, quota), Gauge::default())).into();
        let load: Vec<_> = (0..9)
            .map(|n| {
                let (group, gauge) = tenants[n % 3].clone();
                let total = total.clone();
                tokio::spawn(async move {
                    let mut dice = Dice::new(n as u64 + 1);
                    let mut runs = 0;
                    for _ in 0..1_000 {
                        let (gauge, total) = (gauge.clone(), total.clone());
                        let job = async move {
                            let _inside = (gauge.enter(), total.enter());
                            tokio::task::yield_now().await;
                        };
                        match dice.below(4) {
                            0 => drop(group.anyway_go(job).unwrap()),
                            1 => drop(soon(group.schedule(job)).await.unwrap()),
                            2 => {
                                let mut waiter = Box::pin(group.schedule(job));
                                let polled = poll(&mut waiter).is_ready();
                                tokio::task::yield_now().await;
                                runs += usize::from(polled);
                                continue;
                            }
                            _ => {
                                runs += usize::from(group.try_schedule(job).is_ok());
                                tokio::task::yield_now().await;
                                continue;
                            }
                        }
                        runs += 1;
                    }
                    runs
                })
            })
            .collect();
        let mut runs = 0;
        for task in load {
            runs += task.await.unwrap();
            law(&pool);
        }
        for (n, (group, gauge)) in tenants.iter().enumerate() {
            soon(group.wait()).await;
            assert_eq!(gauge.peak(), n + 1, "the quota, no more and no less");
        }
        assert!(total.peak() <= 4);
        assert_eq!(total.total(), runs);
        drop(tenants);
        whole(&pool).await;
    });
}
