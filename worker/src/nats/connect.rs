//! What is checked before anything is fetched: the stream, the consumer and the dead letters.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, PullConsumer, pull};
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
        Ok(info) => Some(info),
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => None,
        Err(error) => return Err(refused("consumer", name, error)),
    };
    if let Some(info) = found {
        check(&info.config, options)?;
        // Messages of subjects that the stream had before may be left.
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            check_filters(&filters(&info.config), &stream.cached_info().config)?;
        }
        return stream.get_consumer(name).await.map_err(|error| refused("consumer", name, error));
    }
    check_filters(&options.filter_subjects, &stream.cached_info().config)?;
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
fn check(config: &consumer::Config, options: &Options) -> Result<(), ConfigError> {
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
    if !options.filter_subjects.is_empty() && options.filter_subjects != filters(config) {
        let value = format!("{:?}", options.filter_subjects);
        return error("filter_subjects", value, "the subjects that the consumer has already");
    }
    Ok(())
}

/// Returns the subjects that a consumer is for. It is for all if there are none.
fn filters(config: &consumer::Config) -> Vec<String> {
    let mut filters = config.filter_subjects.clone();
    filters.extend(Some(config.filter_subject.clone()).filter(|subject| !subject.is_empty()));
    filters
}

/// Checks that each filter may match a message: otherwise the consumer would wait for ever.
fn check_filters(filters: &[String], stream: &stream::Config) -> Result<(), ConfigError> {
    // The messages of another stream, and transformed ones, have subjects that the stream's own do not tell.
    let has_others = stream.mirror.is_some()
        || stream.sources.as_ref().is_some_and(|sources| !sources.is_empty())
        || stream.subject_transform.is_some();
    let subjects = &stream.subjects;
    let matches = |filter: &&String| subjects.iter().any(|subject| overlap(filter, subject));
    match filters.iter().find(|filter| !has_others && !matches(filter)) {
        None => Ok(()),
        Some(filter) => {
            let value = format!("{filter}, on a stream of {}", subjects.join(", "));
            Err(ConfigError::new("filter_subjects", value, "a subject that the stream takes"))
        }
    }
}

/// Whether there is a subject that both match. `*` stands for a part, and `>` for one part or more at the end.
fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

/// Returns the subject of the dead letters, which a stream takes, and the consumer does not.
pub(crate) async fn dead_letters(
    context: &Context,
    options: &Options,
    consumer: &PullConsumer,
) -> Result<String, ConnectError> {
    let filters = filters(&consumer.cached_info().config);
    let Options { stream, consumer, .. } = options;
    let default = || format!("dead.{stream}.{consumer}");
    let subject = options.dead_letters.clone().unwrap_or_else(default);
    let is_blank = |c: char| c.is_whitespace() || "*>".contains(c);
    if subject.split('.').any(str::is_empty) || subject.contains(is_blank) {
        let accepted = "a subject without white space, wildcards and empty parts";
        return Err(ConfigError::new("dead_letters", format!("{subject:?}"), accepted).into());
    }
    let taker = context.stream_by_subject(&subject).await;
    let is_taken = filters.is_empty() || filters.iter().any(|filter| overlap(filter, &subject));
    if is_taken && taker.as_ref().is_ok_and(|taker| taker == stream) {
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
        let made = made.map_err(|error| refused("dead_letters", &subject, error))?;
        // There may have been one of that name.
        let made = &made.cached_info().config;
        if !made.subjects.iter().any(|taken| overlap(taken, &subject)) {
            let error = format!("the stream {} is there, and does not take it", made.name);
            return Err(refused("dead_letters", &subject, error));
        }
    }
    Ok(subject)
}

/// What the consumer allows a pull request.
pub(crate) struct Bounds {
    /// The most messages.
    pub(crate) batch: usize,
    /// The longest time that the server keeps a request.
    pub(crate) expires: Duration,
}

impl Bounds {
    pub(crate) fn of(config: &consumer::Config) -> Self {
        let batch = usize::try_from(config.max_batch).ok().filter(|most| *most > 0);
        let expires = Some(config.max_expires).filter(|longest| !longest.is_zero());
        Self { batch: batch.unwrap_or(usize::MAX), expires: expires.unwrap_or(Duration::MAX) }
    }
}

/// Whether the server says that the stream or the consumer is gone.
pub(crate) fn is_gone(error: &ConsumerInfoError) -> bool {
    matches!(error.kind(), ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound)
}

#[cfg(test)]
mod tests {
    use super::overlap;

    #[test]
    fn subjects_overlap() {
        let pairs = [
            ("a", "a", true),
            ("a", "b", false),
            ("a.b", "a", false),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.*", "*.b", true),
            ("a.*.c", "a.b.*", true),
            ("a.*.c", "a.b.d", false),
            (">", "a.b", true),
            ("a.>", "a", false),
            ("a.>", "a.b.c", true),
            ("a.>", "*.*", true),
            ("a.>", "b.>", false),
            ("a.>", "a.*.>", true),
            ("ab", "a", false),
        ];
        for (one, other, expected) in pairs {
            assert_eq!(overlap(one, other), expected, "{one} {other}");
            assert_eq!(overlap(other, one), expected, "{other} {one}");
        }
    }
}
