//! The service, and its client: what `tonic-build` would make of
//!
//! ```proto
//! package example;
//! service Greeter { rpc Greet(GreetRequest) returns (Hello); }
//! message GreetRequest { string name = 1; uint64 ms = 2; }
//! message Hello { string text = 1; }
//! ```

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::http::{self, uri::PathAndQuery};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

const PATH: &str = "/example.Greeter/Greet";

#[derive(Clone, PartialEq, prost::Message)]
pub struct GreetRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    #[prost(string, tag = "1")]
    pub text: String,
}

#[derive(Clone)]
pub struct Greeter;

impl Greeter {
    async fn greet(self, who: GreetRequest) -> Result<Response<Hello>, Status> {
        assert_ne!(who.name, "panic", "as it was asked to");
        tokio::time::sleep(Duration::from_millis(who.ms)).await;
        Ok(Response::new(Hello { text: format!("hello, {}", who.name) }))
    }
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The method, decoded.
struct Greet(Greeter);

impl Service<Request<GreetRequest>> for Greet {
    type Response = Response<Hello>;
    type Error = Status;
    type Future = BoxFuture<Result<Response<Hello>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<GreetRequest>) -> Self::Future {
        Box::pin(self.0.clone().greet(request.into_inner()))
    }
}

impl Service<http::Request<Body>> for Greeter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != PATH {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Hello, GreetRequest>::default());
            Ok(grpc.unary(Greet(service), request).await)
        })
    }
}

impl NamedService for Greeter {
    const NAME: &'static str = "example.Greeter";
}

pub struct GreeterClient(tonic::client::Grpc<Channel>);

impl GreeterClient {
    pub fn new(channel: Channel) -> Self {
        Self(tonic::client::Grpc::new(channel))
    }

    /// Asks for a greeting that takes so many milliseconds.
    pub async fn greet(&mut self, name: String, ms: u64) -> Result<Hello, Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<GreetRequest, Hello>::default();
        let request = Request::new(GreetRequest { name, ms });
        let path = PathAndQuery::from_static(PATH);
        self.0.unary(request, path, codec).await.map(Response::into_inner)
    }
}
