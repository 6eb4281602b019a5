use millpond::*;
use std::sync::Arc;
use std::sync::atomic::*;
use std::time::*;
fn rt(multi: bool) -> tokio::runtime::Runtime {
    if multi {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    } else {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }
}
async fn go<F: std::future::Future<Output = ()> + Send + 'static>(f: F) {
    tokio::spawn(f).await.unwrap()
}
fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    for multi in [true, false] {
        macro_rules! m {
            ($name:expr, $n:expr, $body:expr) => {
                if $name.contains(&only) || only.is_empty() {
                    let mut v = vec![];
                    let mut w = vec![];
                    for r in 0..5 {
                        let f = $body;
                        let n: u64 = $n;
                        let rt1 = rt(multi);
                        let t = rt1.block_on(async move {
                            let t = Instant::now();
                            f(true).await;
                            t.elapsed()
                        });
                        drop(rt1);
                        v.push(t.as_nanos() as u64 / n);
                        let f = $body;
                        let rt1 = rt(multi);
                        let t = rt1.block_on(async move {
                            let t = Instant::now();
                            f(false).await;
                            t.elapsed()
                        });
                        drop(rt1);
                        w.push(t.as_nanos() as u64 / n);
                        let _ = r;
                    }
                    v.sort();
                    w.sort();
                    println!(
                        "{:22} {} ours {:5} sem {:5} ratio {:.2}   {:?}",
                        $name,
                        if multi { "mt" } else { "ct" },
                        v[2],
                        w[2],
                        w[2] as f64 / v[2] as f64,
                        v
                    );
                }
            };
        }
        fn sem_or(pool: bool, size: usize) -> (Option<Pool>, Arc<tokio::sync::Semaphore>) {
            (pool.then(|| Pool::new(size)), Arc::new(tokio::sync::Semaphore::new(size)))
        }
        async fn flood<F, Fut>(p: bool, size: usize, producers: u64, n: u64, mk: F)
        where
            F: Fn(Arc<AtomicU64>) -> Fut + Clone + Send + Sync + 'static,
            Fut: std::future::Future<Output = ()> + Send + 'static,
        {
            let (pool, sem) = sem_or(p, size);
            let c = Arc::new(AtomicU64::new(0));
            let mut hs = vec![];
            for _ in 0..producers {
                let (pool, sem, c, mk) = (pool.clone(), sem.clone(), c.clone(), mk.clone());
                hs.push(tokio::spawn(async move {
                    for _ in 0..n / producers {
                        let job = mk(c.clone());
                        match &pool {
                            Some(p) => {
                                let _ = p.schedule(job).await.unwrap();
                            }
                            None => {
                                let permit = sem.clone().acquire_owned().await.unwrap();
                                tokio::spawn(async move {
                                    job.await;
                                    drop(permit)
                                });
                            }
                        }
                    }
                }));
            }
            for h in hs {
                h.await.unwrap();
            }
            match pool {
                Some(p) => p.wait_idle().await,
                None => {
                    let _ = sem.acquire_many(size as u32).await.unwrap();
                }
            }
            assert_eq!(c.load(Ordering::Relaxed), n);
        }
        let tiny = |c: Arc<AtomicU64>| async move {
            c.fetch_add(1, Ordering::Relaxed);
        };
        let yields = |c: Arc<AtomicU64>| async move {
            tokio::task::yield_now().await;
            c.fetch_add(1, Ordering::Relaxed);
        };
        let sleeps = |c: Arc<AtomicU64>| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            c.fetch_add(1, Ordering::Relaxed);
        };
        m!("tiny1 s100", 1_000_000, move |p| flood(p, 100, 1, 1_000_000, tiny));
        m!("tiny1 s2", 300_000, move |p| flood(p, 2, 1, 300_000, tiny));
        m!("tiny1 s1000", 1_000_000, move |p| flood(p, 1000, 1, 1_000_000, tiny));
        m!("tiny4 s100", 1_000_000, move |p| flood(p, 100, 4, 1_000_000, tiny));
        m!("tiny4 s1000", 1_000_000, move |p| flood(p, 1000, 4, 1_000_000, tiny));
        m!("yield s100", 500_000, move |p| flood(p, 100, 1, 500_000, yields));
        m!("sleep s10000", 300_000, move |p| flood(p, 10_000, 1, 300_000, sleeps));
        m!("handles", 200_000, move |p: bool| async move {
            go(async move {
                let (pool, sem) = sem_or(p, 1000);
                if let Some(pool) = pool {
                    let mut v = Vec::with_capacity(200_000);
                    for i in 0..200_000u64 {
                        v.push(pool.schedule(async move { i }).await.unwrap());
                    }
                    for h in v {
                        h.await.unwrap();
                    }
                } else {
                    let mut v = Vec::with_capacity(200_000);
                    for i in 0..200_000u64 {
                        let permit = sem.clone().acquire_owned().await.unwrap();
                        v.push(tokio::spawn(async move {
                            let _p = permit;
                            i
                        }));
                    }
                    for h in v {
                        h.await.unwrap();
                    }
                }
            })
            .await
        });
        m!("pingpong", 200_000, move |p: bool| async move {
            go(async move {
                let (pool, sem) = sem_or(p, 100);
                for i in 0..200_000u64 {
                    if let Some(pool) = &pool {
                        pool.schedule(async move { i }).await.unwrap().await.unwrap();
                    } else {
                        let permit = sem.clone().acquire_owned().await.unwrap();
                        tokio::spawn(async move {
                            let _p = permit;
                            i
                        })
                        .await
                        .unwrap();
                    }
                }
            })
            .await
        });
        m!("rr64", 640_000, move |p: bool| async move {
            go(async move {
                let (pool, sem) = sem_or(p, 100);
                let mut hs = vec![];
                for _ in 0..64 {
                    let (pool, sem) = (pool.clone(), sem.clone());
                    hs.push(tokio::spawn(async move {
                        for i in 0..10_000u64 {
                            if let Some(pool) = &pool {
                                pool.schedule(async move { i }).await.unwrap().await.unwrap();
                            } else {
                                let permit = sem.clone().acquire_owned().await.unwrap();
                                tokio::spawn(async move {
                                    let _p = permit;
                                    i
                                })
                                .await
                                .unwrap();
                            }
                        }
                    }));
                }
                for h in hs {
                    h.await.unwrap();
                }
            })
            .await
        });
        m!("spawn pingpong", 200_000, move |_p: bool| async move {
            go(async move {
                for i in 0..200_000u64 {
                    tokio::spawn(async move { i }).await.unwrap();
                }
            })
            .await
        });
    }
}
