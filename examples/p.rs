use millpond::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let multi = a[1] == "mt";
    let n: u64 = a[3].parse().unwrap();
    let rt = if multi {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    } else {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    };
    let kind = a[2].clone();
    let size: usize = a.get(4).map_or(100, |s| s.parse().unwrap());
    let t = std::time::Instant::now();
    rt.block_on(async move {
        let pool = Pool::new(size);
        tokio::spawn(async move {
            if kind == "handles" {
                let mut v = Vec::with_capacity(n as usize);
                for i in 0..n {
                    v.push(pool.schedule(async move { i }).await.unwrap());
                }
                for h in v {
                    h.await.unwrap();
                }
                return;
            }
            for i in 0..n {
                match &*kind {
                    "tiny" => {
                        let _ = pool
                            .schedule(async move {
                                std::hint::black_box(i);
                            })
                            .await
                            .unwrap();
                    }
                    "yield" => {
                        let _ = pool
                            .schedule(async move {
                                tokio::task::yield_now().await;
                            })
                            .await
                            .unwrap();
                    }
                    "sleep" => {
                        let _ = pool
                            .schedule(async move {
                                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                            })
                            .await
                            .unwrap();
                    }
                    "ping" => {
                        pool.schedule(async move { i }).await.unwrap().await.unwrap();
                    }
                    _ => panic!(),
                }
            }
            pool.wait_idle().await;
        })
        .await
        .unwrap();
    });
    println!("{} ns/job", t.elapsed().as_nanos() as u64 / n);
}
