//! A slot that is held until a response's body has ended is free then, and not before.

use std::convert::Infallible;
use std::fmt;

use crate::support::*;
use bytes::Bytes;
use http_body_util::{BodyExt, Channel, Empty, Full};
use hyper::body::Body;
use hyper::{Request, Response};
use millpond::Pool;
use millpond::layer::PoolLayer;
use tower::{Layer, Service, ServiceExt, service_fn};

type Sender = http_body_util::channel::Sender<Bytes, fmt::Error>;

/// A call whose body is in the test's hands.
async fn call(
    layer: &PoolLayer<millpond::layer::ReturnError, millpond::layer::Holding>,
) -> (Sender, Response<impl Body<Data = Bytes, Error: fmt::Debug> + Unpin>) {
    let (send, mut receive) = tokio::sync::mpsc::unbounded_channel();
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let (sender, body) = Channel::<Bytes, fmt::Error>::new(4);
        send.send(sender).unwrap();
        async move { Ok::<_, Infallible>(Response::new(body)) }
    }));
    let response = service.oneshot(Request::new(())).await.unwrap();
    (receive.recv().await.unwrap(), response)
}

#[test]
fn the_slot_is_free_when_the_body_has_ended() {
    single(async {
        let pool = Pool::new(1);
        let layer = PoolLayer::try_schedule(&pool).hold_until_body_end();
        let (mut sender, response) = call(&layer).await;
        let mut body = response.into_body();
        let status = law(&pool);
        assert_eq!((status.held_slots, status.running, status.completed), (1, 0, 1));
        sender.send_data(Bytes::from_static(b"a")).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        assert_eq!(law(&pool).held_slots, 1);
        drop(sender);
        assert!(body.frame().await.is_none());
        assert_eq!(law(&pool).held_slots, 0);
        whole(&pool).await;
    });
}

#[test]
fn or_is_dropped_or_fails() {
    single(async {
        let pool = Pool::new(1);
        let layer = PoolLayer::schedule(&pool).hold_until_body_end();
        let (_sender, response) = call(&layer).await;
        assert_eq!(law(&pool).held_slots, 1);
        drop(response);
        whole(&pool).await;
        let (sender, response) = call(&layer).await;
        sender.abort(fmt::Error);
        let mut body = response.into_body();
        assert!(body.frame().await.unwrap().is_err());
        assert_eq!(law(&pool).held_slots, 0);
        whole(&pool).await;
    });
}

#[test]
fn bodies_that_are_there_hold_nothing() {
    single(async {
        let pool = Pool::new(1);
        let layer = PoolLayer::try_schedule(&pool).hold_until_body_end();
        let empty = layer.layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
        let response = empty.oneshot(Request::new(())).await.unwrap();
        assert_eq!(law(&pool).held_slots, 0);
        drop(response);
        let full = layer.layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"all"))))
        }));
        let response = full.oneshot(Request::new(())).await.unwrap();
        assert_eq!((law(&pool).held_slots, response.body().size_hint().exact()), (1, Some(3)));
        // With its last frame it has ended, asked for more or not.
        let mut body = response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "all");
        assert_eq!(law(&pool).held_slots, 0);
        whole(&pool).await;
    });
}

#[test]
fn answers_have_bodies_of_the_same_type() {
    single(async {
        let pool = Pool::new(1);
        let layer = PoolLayer::try_schedule(&pool)
            .on_error(|error, _: Option<Request<()>>| {
                let busy = if error.is_refusal() { "busy" } else { "" };
                Response::new(Full::new(Bytes::from(busy)))
            })
            .hold_until_body_end();
        let mut service = layer.layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }));
        let first = service.ready().await.unwrap().call(Request::new(())).await.unwrap();
        let second = service.ready().await.unwrap().call(Request::new(())).await.unwrap();
        assert_eq!(second.into_body().collect().await.unwrap().to_bytes(), "busy");
        assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "done");
        whole(&pool).await;
    });
}

/// A client that hangs up while its detached call makes a response without a reader.
#[test]
fn a_response_nobody_takes_gives_the_slot_back() {
    single(async {
        let pool = Pool::new(1);
        let layer = PoolLayer::try_schedule(&pool).hold_until_body_end();
        for layer in [layer.clone(), layer.detach_on_drop()] {
            for ended in [false, true] {
                let service = layer.layer(service_fn(|_: Request<()>| async {
                    let body = Full::new(Bytes::from_static(b"all"));
                    Ok::<_, Infallible>(Response::new(body))
                }));
                let mut call = Box::pin(service.oneshot(Request::new(())));
                assert!(poll(&mut call).is_pending());
                if ended {
                    settle().await;
                    assert_eq!(law(&pool).held_slots, 1);
                }
                drop(call);
                settle().await;
                whole(&pool).await;
            }
        }
    });
}
