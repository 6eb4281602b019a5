//! A closure of `on_error` that does not fit the wrapped service.

use std::convert::Infallible;

use millpond::Pool;
use millpond::layer::{CallError, PoolLayer};
use tower::{Layer, Service, service_fn};

async fn double(n: u32) -> Result<u32, Infallible> {
    Ok(n * 2)
}

fn serve(_: impl Service<u32>) {}

pub fn wrong_response(pool: &Pool) {
    let layer = PoolLayer::schedule(pool).on_error(|_: CallError<Infallible>, _: Option<u32>| "");
    let service = layer.layer(service_fn(double));
    serve(service); //~ the closure of `PoolLayer::on_error` returns `&str`, but the wrapped service responds with `u32`
    //~^ return a `u32` from the closure; on axum, `.into_response()` makes one
}

pub fn wrong_request(pool: &Pool) {
    let layer = PoolLayer::schedule(pool).on_error(|_: CallError<Infallible>, _: Option<()>| 1_u32);
    let service = layer.layer(service_fn(double));
    serve(service); //~ HandleError<u32, u32, Infallible>
}

pub fn some_layer<A: Clone>(layer: PoolLayer<A>) {
    let service = layer.layer(service_fn(double));
    serve(service); //~ `PoolLayer::on_error` does not fit the wrapped service
    //~^ the closure of `on_error` takes `(CallError<Infallible>, Option<u32>)` and returns `u32`
}
