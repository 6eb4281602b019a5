#![allow(missing_docs)]
use millpond::*;
use std::time::Duration;
#[test]
fn rr() {
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let pool = Pool::new(100);
    let p2 = pool.clone();
    std::thread::spawn(move || loop { std::thread::sleep(Duration::from_secs(1)); eprintln!("{:?}", p2.status()); eprintln!("{}", p2.debug_dump()); });
    rt.block_on(async move {
        for _ in 0..5 {
        let mut hs = vec![];
        for _ in 0..64 { let pool = pool.clone(); hs.push(tokio::spawn(async move { for i in 0..10_000u64 { pool.schedule(async move { i }).await.unwrap().await.unwrap(); } })); }
        for h in hs { h.await.unwrap(); }
        }
    });
}
