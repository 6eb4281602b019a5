//! A message of a stream, and how the replies of Redis become messages.

use bytes::Bytes;
use redis::Value;

/// A message of a Redis stream.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Message {
    /// The id that `XADD` returned. Unique in the stream, so it serves as an idempotency key.
    pub id: String,
    /// The fields, in the order of `XADD`.
    pub fields: Vec<(String, Bytes)>,
}

impl Message {
    /// Returns the value of a field.
    pub fn get(&self, field: &str) -> Option<&Bytes> {
        self.fields.iter().find(|(name, _)| name == field).map(|(_, value)| value)
    }

    /// Returns the value of the field `key`, for [`Worker::by_key`](crate::Worker::by_key).
    pub fn key(&self) -> Option<Bytes> {
        self.get("key").cloned()
    }
}

/// What a request found: the milliseconds until the next delay is over (-1: none), and messages with
/// their deliveries.
pub(crate) type Found = (i64, Vec<(Message, u32)>);

/// Reads the reply of `XREADGROUP` for one stream: `[[stream, [[id, fields], ...]]]`, or nil.
pub(crate) fn from_read(reply: Value) -> Option<Found> {
    let entries = match reply {
        Value::Nil => return Some((-1, Vec::new())),
        Value::Map(mut streams) => streams.pop()?.1,
        reply => array(array(reply)?.pop()?)?.pop()?,
    };
    let found = array(entries)?.into_iter().map(|entry| {
        let [id, fields] = array(entry)?.try_into().ok()?;
        Some((message(id, fields)?, 1))
    });
    Some((-1, found.collect::<Option<_>>()?))
}

/// Reads the reply of the script `SWEEP`.
pub(crate) fn from_sweep(reply: Value) -> Option<Found> {
    let [next, found] = array(reply)?.try_into().ok()?;
    let Value::Int(next) = next else { return None };
    let found = array(found)?.into_iter().map(|entry| {
        let [id, deliveries, fields] = array(entry)?.try_into().ok()?;
        let Value::Int(deliveries) = deliveries else { return None };
        Some((message(id, fields)?, u32::try_from(deliveries).unwrap_or(u32::MAX)))
    });
    Some((next, found.collect::<Option<_>>()?))
}

fn message(id: Value, fields: Value) -> Option<Message> {
    let mut rest = match fields {
        // The message was deleted after it had been delivered.
        Value::Nil => Vec::new(),
        fields => array(fields)?,
    }
    .into_iter();
    let mut fields = Vec::with_capacity(rest.len() / 2);
    while let (Some(name), Some(value)) = (rest.next(), rest.next()) {
        fields.push((text(name)?, Bytes::from(bulk(value)?)));
    }
    Some(Message { id: text(id)?, fields })
}

fn array(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

fn bulk(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

fn text(value: Value) -> Option<String> {
    Some(match String::from_utf8(bulk(value)?) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}
