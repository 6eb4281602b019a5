//! The job of a call: first `Service::call`, then the future that it returns.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower_service::Service;

pin_project! {
    /// A call of a service, as a future of its response. Keeps the request until the first poll
    /// (T3).
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
    /// Takes a service that was polled ready (T1).
    pub(crate) fn new(service: S, request: Q) -> Self {
        Self { state: State::Ready { service, request } }
    }

    /// Returns the request of a call that was not polled.
    pub(crate) fn request(&self) -> Option<&Q> {
        match &self.state {
            State::Ready { request, .. } => Some(request),
            State::Running { .. } | State::Gone => None,
        }
    }

    /// Returns the request of a refused call.
    pub(crate) fn into_request(self) -> Q {
        match self.state {
            State::Ready { request, .. } => request,
            State::Running { .. } | State::Gone => {
                unreachable!("the pool does not poll a refused call")
            }
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
                unreachable!("the state was `Ready` just now");
            };
            let future = service.call(request);
            state.set(State::Running { future });
        }
        match state.project() {
            StateProj::Running { future } => future.poll(cx),
            _ => unreachable!("the pool polls no job after a panic of it"),
        }
    }
}
