use millpond::*;
use std::time::Duration;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smoke() {
    let pool = Pool::new(100);
    let p2 = pool.clone();
    tokio::spawn(async move {
        for round in 0..3 {
            let mut hs = vec![];
            for i in 0..10_000u64 {
                hs.push(p2.schedule(async move { if i % 3 == 0 { tokio::task::yield_now().await; } if i % 1000 == 1 { tokio::time::sleep(Duration::from_millis(1)).await; } i }).await.unwrap());
            }
            let mut s = 0;
            for h in hs { s += h.await.unwrap(); }
            assert_eq!(s, 9999 * 10_000 / 2);
            eprintln!("round {round} {:?}", p2.status());
        }
    }).await.unwrap();
    pool.wait_idle().await;
    let st = pool.status();
    assert_eq!(st.submitted, st.accounted());
    let r = pool.shutdown(Duration::from_secs(1)).await;
    eprintln!("{r:?} {st:?}");
}
