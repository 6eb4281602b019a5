//! Inputs to jobs to outcomes, with backpressure: for code that comes from `buffer_unordered` and
//! `buffered`.
//!
//! [`Map`] is a group with one feeder and one reader, both inside `poll_next`. A poll commits jobs
//! until `limit` of them have no outcome that was given out, and then takes an outcome. The jobs are
//! committed, and no future of a submit waits in here. So a granted slot never waits for a consumer
//! that is busy, and the jobs go on while the stream is not polled.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use pin_project_lite::pin_project;

use crate::error::JobError;
use crate::group::Group;
use crate::group::outcome::Outcome;
use crate::group::stream::Outcomes;
use crate::pool::{Pool, PoolWith};

impl Pool {
    /// Runs a job for each input, at most `limit` at a time, and returns their outcomes as a stream:
    /// in the order of completion, or by [`Map::in_order`] in that of the inputs.
    ///
    /// Use it in place of `buffer_unordered` and `buffered`. The jobs run in the pool, in parallel,
    /// and also while the stream is not polled. At most `limit` inputs are between the iterator and
    /// the consumer: waiting, running, or ended and not taken. So a slow consumer slows the jobs
    /// down. The page [`guide::buffered`](crate::guide::buffered) compares the two.
    ///
    /// Nothing happens before the first poll. **Dropping the stream cancels the jobs that are left.**
    /// If the pool is closed, the outcome of the next input is a cancellation, and the stream ends
    /// with it.
    ///
    /// # Panics
    ///
    /// If `limit` is 0.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::new(4);
    /// let mut squares = pool.map(0..100u64, 8, |n| async move { n * n });
    /// let mut sum = 0;
    /// while let Some(outcome) = squares.next().await {
    ///     sum += outcome.into_result()?;
    /// }
    /// assert_eq!(sum, 328_350);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "buffer_unordered")]
    #[doc(alias = "buffered")]
    #[doc(alias = "for_each_concurrent")]
    #[track_caller]
    pub fn map<I, F, Fut>(
        &self,
        inputs: I,
        limit: usize,
        f: F,
    ) -> Map<Iter<I::IntoIter>, F, Fut::Output>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> Fut,
        Fut: Future + Send + 'static,
        Fut::Output: Send + 'static,
    {
        self.map_stream(Iter(inputs.into_iter()), limit, f)
    }

    /// [`map`](Self::map) with a stream of inputs.
    ///
    /// The stream is polled while fewer than `limit` inputs are on their way.
    ///
    /// # Panics
    ///
    /// If `limit` is 0.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use futures_util::{StreamExt, stream};
    ///
    /// let pool = millpond::Pool::new(4);
    /// let names = stream::iter(["a", "b", "c"]);
    /// let upper = pool.map_stream(names, 2, |name| async move { name.to_uppercase() }).in_order();
    /// let upper: Vec<_> = upper.map(|outcome| outcome.into_result().unwrap()).collect().await;
    /// assert_eq!(upper, ["A", "B", "C"]);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn map_stream<S, F, Fut>(&self, inputs: S, limit: usize, f: F) -> Map<S, F, Fut::Output>
    where
        S: Stream,
        F: FnMut(S::Item) -> Fut,
        Fut: Future + Send + 'static,
        Fut::Output: Send + 'static,
    {
        Map::new(self.group(), inputs, limit, f)
    }
}

impl PoolWith<'_> {
    /// [`Pool::map`] with options, which each job has. A [`timeout`](crate::JobOptions::timeout) counts from
    /// the moment at which the options were made.
    ///
    /// # Panics
    ///
    /// If `limit` is 0.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use millpond::{JobOptions, Pool, Priority};
    ///
    /// let pool = Pool::new(4);
    /// let idle = pool.with(JobOptions::new().priority(Priority::Background));
    /// let mut squares = idle.map(0..10u64, 2, |n| async move { n * n }).in_order();
    /// assert_eq!(squares.next().await.unwrap().into_result()?, 0);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn map<I, F, Fut>(
        &self,
        inputs: I,
        limit: usize,
        f: F,
    ) -> Map<Iter<I::IntoIter>, F, Fut::Output>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> Fut,
        Fut: Future + Send + 'static,
        Fut::Output: Send + 'static,
    {
        self.map_stream(Iter(inputs.into_iter()), limit, f)
    }

    /// [`Pool::map_stream`] with options, which each job has.
    ///
    /// # Panics
    ///
    /// If `limit` is 0.
    #[track_caller]
    pub fn map_stream<S, F, Fut>(&self, inputs: S, limit: usize, f: F) -> Map<S, F, Fut::Output>
    where
        S: Stream,
        F: FnMut(S::Item) -> Fut,
        Fut: Future + Send + 'static,
        Fut::Output: Send + 'static,
    {
        Map::new(self.group(), inputs, limit, f)
    }
}

/// An iterator as the inputs of a [`Map`].
pub struct Iter<I>(I);

impl<I: Iterator> Stream for Iter<I> {
    type Item = I::Item;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
        Poll::Ready(self.0.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

// The iterator is never pinned.
impl<I> Unpin for Iter<I> {}

pin_project! {
    /// The outcomes of jobs that were made from inputs; from [`Pool::map`] and [`Pool::map_stream`].
    ///
    /// The index of an outcome is the number of its input, from 0.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future of [`next`](Self::next) loses no outcome. Dropping the stream cancels the
    /// jobs that are left.
    #[must_use = "streams do nothing unless polled"]
    pub struct Map<S, F, T> {
        #[pin]
        inputs: S,
        f: F,
        limit: usize,
        group: Group<T>,
        outcomes: Outcomes<T>,
        // Inputs that were taken.
        submitted: usize,
        // Outcomes that were returned.
        given_out: usize,
        // No input is left, or the pool is closed. The group is closed then.
        ended: bool,
        in_order: bool,
        // With `in_order`: the outcomes from `given_out` on, as far as they are there.
        ahead: VecDeque<Option<Outcome<T>>>,
    }
}

impl<S, F, T: Send + 'static> Map<S, F, T> {
    #[track_caller]
    fn new(group: Group<T>, inputs: S, limit: usize, f: F) -> Self {
        assert!(limit > 0, "`limit` must be 1 or more: a map without jobs would never end");
        let outcomes = group.outcomes();
        let (submitted, given_out) = (0, 0);
        let (ended, in_order, ahead) = (false, false, VecDeque::new());
        Self { inputs, f, limit, group, outcomes, submitted, given_out, ended, in_order, ahead }
    }
}

impl<S, F, T> Map<S, F, T> {
    /// Returns the outcomes in the order of the inputs. An outcome waits for those before it, and
    /// counts to the limit meanwhile.
    pub fn in_order(mut self) -> Self {
        self.in_order = true;
        self
    }
}

impl<S, F, Fut, T> Map<S, F, T>
where
    S: Stream,
    F: FnMut(S::Item) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    /// Waits for the next outcome. Returns `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Outcome<T>>
    where
        S: Unpin,
    {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl<S, F, Fut, T> Stream for Map<S, F, T>
where
    S: Stream,
    F: FnMut(S::Item) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    type Item = Outcome<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Outcome<T>>> {
        let mut this = self.project();
        let mut refused = None;
        while !*this.ended && *this.submitted - *this.given_out < *this.limit {
            match this.inputs.as_mut().poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(input)) => {
                    if this.group.anyway_go((this.f)(input)).is_err() {
                        let index = *this.submitted;
                        let result = Err(JobError::Cancelled);
                        refused = Some(Outcome { index, success: false, result });
                        *this.ended = true;
                    }
                    *this.submitted += 1;
                }
                Poll::Ready(None) => *this.ended = true,
            }
            if *this.ended {
                this.group.close();
            }
        }
        loop {
            if let Some(outcome) = refused.take() {
                if !*this.in_order {
                    *this.given_out += 1;
                    return Poll::Ready(Some(outcome));
                }
                put_ahead(this.ahead, *this.given_out, outcome);
            }
            if let Some(Some(_)) = this.ahead.front() {
                *this.given_out += 1;
                return Poll::Ready(this.ahead.pop_front().flatten());
            }
            match ready!(Pin::new(&mut *this.outcomes).poll_next(cx)) {
                Some(outcome) if *this.in_order => {
                    put_ahead(this.ahead, *this.given_out, outcome);
                }
                outcome => {
                    *this.given_out += usize::from(outcome.is_some());
                    return Poll::Ready(outcome);
                }
            }
        }
    }
}

/// Puts an outcome in its place among those that are waited for.
fn put_ahead<T>(ahead: &mut VecDeque<Option<Outcome<T>>>, first: usize, outcome: Outcome<T>) {
    let place = outcome.index - first;
    if ahead.len() <= place {
        ahead.resize_with(place + 1, || None);
    }
    ahead[place] = Some(outcome);
}

impl<I> fmt::Debug for Iter<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

impl<S, F, T> fmt::Debug for Map<S, F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("limit", &self.limit)
            .field("submitted", &self.submitted)
            .field("given_out", &self.given_out)
            .finish_non_exhaustive()
    }
}
