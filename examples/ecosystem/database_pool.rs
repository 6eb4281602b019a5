//! A pool of database connections beside the pool of jobs, and how their sizes fit.
//!
//! Each job holds one connection while it runs. So the pool of jobs has as many slots as there are
//! connections: a job that has a slot never waits for a connection, and all waiting is in one place,
//! the pool's queue, where it is counted and bounded. With more slots than connections, slots would
//! be taken by jobs that wait for a connection.
//!
//! The database is made up, its pool is deadpool's: `sqlx`, `bb8` and `r2d2` are used the same way.
//!
//! ```text
//! cargo run --release --example database_pool
//! ```

use std::convert::Infallible;
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, Pool as Connections, RecycleResult};
use millpond::Pool;

const CONNECTIONS: usize = 4;

/// Opens connections to the database.
struct Database;

struct Connection;

impl Connection {
    async fn query(&mut self, n: u64) -> u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        n * n
    }
}

impl Manager for Database {
    type Type = Connection;
    type Error = Infallible;

    async fn create(&self) -> Result<Connection, Infallible> {
        Ok(Connection)
    }

    async fn recycle(&self, _: &mut Connection, _: &Metrics) -> RecycleResult<Infallible> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let connections = Connections::<Database>::builder(Database).max_size(CONNECTIONS).build()?;
    let jobs = Pool::builder().size(CONNECTIONS).queue(2 * CONNECTIONS).name("queries").build()?;

    let (mut handles, mut refused, mut waited) = (Vec::new(), 0, 0);
    for n in 0..20 {
        let connections = connections.clone();
        let job = async move {
            let mut connection = connections.get().await.expect("connecting cannot fail");
            connection.query(n).await
        };
        match jobs.try_schedule(job) {
            Ok(handle) => handles.push(handle),
            Err(error) if error.is_full() => refused += 1,
            Err(error) => return Err(error.into()),
        }
        waited = waited.max(jobs.status().queued);
    }
    let mut sum = 0;
    for handle in handles {
        sum += handle.await?;
    }
    println!("{} queries answered, their sum is {sum}", jobs.status().completed);
    println!("{refused} refused at once, {waited} waited in the queue of the pool");
    println!("{CONNECTIONS} connections, {} waits for one", connections.status().waiting);
    Ok(())
}
