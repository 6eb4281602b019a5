//! Rivals made of worker tasks that take boxed jobs off a bounded channel.

use std::pin::Pin;

use tokio::sync::oneshot;

use super::{Job, Submit};

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

pub trait Queue: Clone + Send + Sync + 'static {
    fn bounded(capacity: usize) -> Self;
    fn push(&self, job: Boxed) -> impl Future<Output = ()> + Send;
    fn pull(&self) -> impl Future<Output = Boxed> + Send;
}

/// Each clone holds both ends, so no channel closes before its runtime ends.
macro_rules! queue {
    ($name:ident: $bounded:path, $sender:ty, $send:ident, $receiver:ty, $recv:ident) => {
        #[derive(Clone)]
        pub struct $name($sender, $receiver);

        impl Queue for $name {
            fn bounded(capacity: usize) -> Self {
                let (sender, receiver) = $bounded(capacity);
                Self(sender, receiver)
            }

            async fn push(&self, job: Boxed) {
                let Ok(()) = self.0.$send(job).await else { panic!("the channel was closed") };
            }

            async fn pull(&self) -> Boxed {
                self.1.$recv().await.expect("the channel is open")
            }
        }
    };
}

queue!(Kanal: kanal::bounded_async,
    kanal::AsyncSender<Boxed>, send, kanal::AsyncReceiver<Boxed>, recv);
queue!(AsyncChannel: async_channel::bounded,
    async_channel::Sender<Boxed>, send, async_channel::Receiver<Boxed>, recv);
queue!(Flume: flume::bounded,
    flume::Sender<Boxed>, send_async, flume::Receiver<Boxed>, recv_async);

#[derive(Clone)]
pub struct Workers<Q>(Q);

impl<Q: Queue> Submit for Workers<Q> {
    type Lost = oneshot::error::RecvError;
    type Handle = oneshot::Receiver<()>;

    fn new(size: usize) -> Self {
        let queue = Q::bounded(size);
        for _ in 0..size {
            let queue = queue.clone();
            tokio::spawn(async move {
                loop {
                    queue.pull().await.await;
                }
            });
        }
        Self(queue)
    }

    async fn feed<J: Job>(&self, jobs: impl Iterator<Item = J> + Send) {
        for job in jobs {
            self.0.push(Box::pin(job)).await;
        }
    }

    async fn submit(&self, job: impl Job) -> Self::Handle {
        let (sender, receiver) = oneshot::channel();
        let answering = async move {
            job.await;
            // The caller may have dropped its end.
            let _ = sender.send(());
        };
        self.0.push(Box::pin(answering)).await;
        receiver
    }
}
