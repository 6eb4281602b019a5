//! The queue in memory keeps the contract of a source.

use millpond_worker::memory::{Consumer, Message, Queue};
use millpond_worker::testing::{Broker, conformance};

use crate::secs;

struct InMemory(Queue<u32>);

impl Broker for InMemory {
    type Source = Consumer<u32>;

    async fn source(&mut self) -> Consumer<u32> {
        self.0.source()
    }

    async fn publish(&mut self, number: u32) {
        self.0.publish(number);
    }

    fn number(&self, message: &Message<u32>) -> u32 {
        message.value
    }

    async fn dead_letters(&mut self) -> usize {
        self.0.dead_letters().len()
    }
}

#[tokio::test(start_paused = true)]
async fn conforms() {
    // Longer than the suite's patience, so that no claim that ran out is taken for one that was dropped.
    conformance(async || InMemory(Queue::new(secs(2)))).await;
}
