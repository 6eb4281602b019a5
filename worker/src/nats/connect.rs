//! What is checked before anything is fetched: the stream, the consumer and the dead letters.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{ConsumerInfoError, ConsumerInfoErrorKind};
use async_nats::jetstream::{Context, stream};
use millpond::ConfigError;

use super::Options;
use crate::error::{ConnectError, check_ack_wait};
use crate::failure::BoxError;

/// The ack wait of a consumer that is made here.
const ACK_WAIT: Duration = Duration::from_secs(30);

fn refused(field: &'static str, value: &str, error: impl Into<BoxError>) -> ConnectError {
    ConnectError::Refused { field, value: value.to_owned(), error: error.into() }
}

/// Returns the consumer, made if there was none. Its settings are such that no message is dropped.
pub(crate) async fn consumer(
    context: &Context,
    options: &Options,
) -> Result<PullConsumer, ConnectError> {
    let Options { stream, consumer: name, .. } = options;
    for (field, name) in [("stream", stream), ("consumer", name)] {
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || ".*>/\\".contains(c)) {
            let accepted = "a name without white space and without any of . * > / \\";
            return Err(ConfigError::new(field, format!("{name:?}"), accepted).into());
        }
    }
    options.ack_wait.map_or(Ok(()), check_ack_wait)?;
    let stream =
        context.get_stream(stream).await.map_err(|error| refused("stream", stream, error))?;
    let found = match stream.consumer_info(name).await {
        Ok(info) => Some(info.config),
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => None,
        Err(error) => return Err(refused("consumer", name, error)),
    };
    if let Some(config) = found {
        check(&config, options)?;
        return stream.get_consumer(name).await.map_err(|error| refused("consumer", name, error));
    }
    let config = pull::Config {
        durable_name: Some(name.clone()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: options.ack_wait.unwrap_or(ACK_WAIT),
        max_deliver: -1,
        // Messages that wait for another attempt count, too: a limit would stop the consumer.
        max_ack_pending: -1,
        filter_subjects: options.filter_subjects.clone(),
        ..Default::default()
    };
    stream.create_consumer(config).await.map_err(|error| refused("consumer", name, error))
}

/// Checks the settings of a consumer that exists.
fn check(
    config: &async_nats::jetstream::consumer::Config,
    options: &Options,
) -> Result<(), ConfigError> {
    let error = |field, value: String, accepted| Err(ConfigError::new(field, value, accepted));
    if config.deliver_subject.is_some() {
        return error("consumer", options.consumer.clone(), "a pull consumer, and this one pushes");
    }
    if config.ack_policy != AckPolicy::Explicit {
        let value = format!("{:?}", config.ack_policy);
        return error("ack_policy", value, "`Explicit`, on the consumer");
    }
    if config.max_deliver > 0 {
        let accepted =
            "-1 on the consumer: the server would drop messages, and `Backoff::attempts` does not";
        return error("max_deliver", config.max_deliver.to_string(), accepted);
    }
    if !config.backoff.is_empty() {
        let value = format!("{:?}", config.backoff);
        return error("backoff", value, "empty on the consumer: `Backoff` is the worker's");
    }
    if options.ack_wait.is_some_and(|ack_wait| ack_wait != config.ack_wait) {
        let value = format!("{:?}", options.ack_wait.unwrap_or_default());
        return error("ack_wait", value, "the ack wait that the consumer has already");
    }
    let mut filters = config.filter_subjects.clone();
    filters.extend(Some(config.filter_subject.clone()).filter(|subject| !subject.is_empty()));
    if !options.filter_subjects.is_empty() && options.filter_subjects != filters {
        let value = format!("{:?}", options.filter_subjects);
        return error("filter_subjects", value, "the subjects that the consumer has already");
    }
    Ok(())
}

/// Returns the subject of the dead letters, which a stream takes, and the consumer does not.
pub(crate) async fn dead_letters(
    context: &Context,
    options: &Options,
    consumer: &PullConsumer,
) -> Result<String, ConnectError> {
    let config = &consumer.cached_info().config;
    let takes_all = config.filter_subject.is_empty() && config.filter_subjects.is_empty();
    let Options { stream, consumer, .. } = options;
    let default = || format!("dead.{stream}.{consumer}");
    let subject = options.dead_letters.clone().unwrap_or_else(default);
    let is_blank = |c: char| c.is_whitespace() || "*>".contains(c);
    if subject.split('.').any(str::is_empty) || subject.contains(is_blank) {
        let accepted = "a subject without white space, wildcards and empty parts";
        return Err(ConfigError::new("dead_letters", format!("{subject:?}"), accepted).into());
    }
    let taker = context.stream_by_subject(&subject).await;
    if takes_all && taker.as_ref().is_ok_and(|taker| taker == stream) {
        let accepted = "a subject that the consumer does not take";
        return Err(ConfigError::new("dead_letters", subject, accepted).into());
    }
    if taker.is_err() {
        let config = stream::Config {
            name: format!("{stream}_{consumer}_DEAD"),
            subjects: vec![subject.clone()],
            ..Default::default()
        };
        let made = context.get_or_create_stream(config).await;
        made.map_err(|error| refused("dead_letters", &subject, error))?;
    }
    Ok(subject)
}

/// Whether the server says that the stream or the consumer is gone.
pub(crate) fn is_gone(error: &ConsumerInfoError) -> bool {
    matches!(error.kind(), ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound)
}
