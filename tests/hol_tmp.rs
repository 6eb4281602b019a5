#![allow(missing_docs)]
use millpond::*;
use std::time::*;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hol() {
    let pool = Pool::new(100);
    for round in 0..5 {
        let p = pool.clone();
        tokio::spawn(async move {
            let t = Instant::now();
            let heavy =
                p.try_schedule(async { std::thread::sleep(Duration::from_millis(200)) }).unwrap();
            let mut v = vec![];
            for _ in 0..20 {
                v.push(p.try_schedule(async move { t.elapsed() }).unwrap());
            }
            let mut worst = Duration::ZERO;
            for h in v {
                worst = worst.max(h.await.unwrap());
            }
            eprintln!("round {round} worst {worst:?} {:?}", p.status().workers);
            heavy.await.unwrap();
        })
        .await
        .unwrap();
    }
}
