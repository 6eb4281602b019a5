//! The job a call is: from `Service::call` to its response.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower_service::Service;

pin_project! {
    pub(crate) struct Call<S: Service<Q>, Q> {
        #[pin]
        state: State<S, Q>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateReplace]
    enum State<S: Service<Q>, Q> {
        Ready { service: S, request: Q },
        Running { #[pin] future: S::Future },
        Gone,
    }
}

impl<S: Service<Q>, Q> Call<S, Q> {
    /// A call of a service that was polled ready.
    pub(crate) fn new(service: S, request: Q) -> Self {
        Self { state: State::Ready { service, request } }
    }

    /// The request of a call that was refused.
    pub(crate) fn into_request(self) -> Q {
        match self.state {
            State::Ready { request, .. } => request,
            State::Running { .. } | State::Gone => unreachable!("a refused call has not started"),
        }
    }
}

impl<S: Service<Q>, Q> Future for Call<S, Q> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        if let StateProj::Ready { .. } = state.as_mut().project() {
            let StateReplace::Ready { mut service, request } =
                state.as_mut().project_replace(State::Gone)
            else {
                unreachable!("just seen");
            };
            let future = service.call(request);
            state.set(State::Running { future });
        }
        match state.project() {
            StateProj::Running { future } => future.poll(cx),
            _ => unreachable!("a job is not polled after it panicked"),
        }
    }
}
