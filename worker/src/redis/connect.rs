//! Connections, and what is checked before anything is fetched.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value,
};

use super::{Names, Options, scripts};
use crate::error::ConnectError;

/// How long a command may take. More than that is no answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// Opens a connection. A command that `blocks` in Redis has that time on top.
pub(crate) async fn open(client: &Client, blocks: Duration) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER))
        .set_response_timeout(Some(ANSWER + blocks));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// Whether another attempt is in vain: the stream or the group is gone, or the permission is missing.
pub(crate) fn is_final(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOGROUP" | "WRONGTYPE" | "NOPERM" | "UNBLOCKED"))
        || matches!(error.kind(), ErrorKind::Server(ServerErrorKind::NoPerm))
        || error.kind() == ErrorKind::AuthenticationFailed
}

/// Makes the group, and tries each command that a worker needs, without taking a message.
pub(crate) async fn prepare(
    connection: &mut MultiplexedConnection,
    options: &Options,
    names: &Names,
) -> Result<(), ConnectError> {
    let refused = |field, value: &str| {
        let value = value.to_owned();
        move |error: RedisError| ConnectError::Refused { field, value, error: error.into() }
    };
    let stream = || refused("stream", &names.stream);
    let group = || refused("group", &names.group);
    let mut exists = redis::cmd("EXISTS");
    if !options.create_stream
        && exists.arg(&names.stream).query_async::<u64>(connection).await.map_err(stream())? == 0
    {
        let error = "there is no such stream; `create_stream` makes it".into();
        return Err(ConnectError::Refused { field: "stream", value: names.stream.clone(), error });
    }
    let mut create = redis::cmd("XGROUP");
    create.arg("CREATE").arg(&names.stream).arg(&names.group).arg("0");
    if options.create_stream {
        create.arg("MKSTREAM");
    }
    match create.query_async::<Value>(connection).await {
        Err(error) if error.code() == Some("BUSYGROUP") => {}
        Err(error) if error.code() == Some("WRONGTYPE") => return Err(stream()(error)),
        result => drop(result.map_err(group())?),
    }
    // The messages of this consumer, which has none.
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP").arg(&names.group).arg(&names.consumer).arg("STREAMS").arg(&names.stream);
    read.arg("0").query_async::<Value>(connection).await.map_err(stream())?;
    let mut ack = redis::cmd("XACK");
    ack.arg(&names.stream).arg(&names.group).arg("0-0");
    ack.query_async::<Value>(connection).await.map_err(group())?;
    scripts::sweep(names, 0).query_async::<Value>(connection).await.map_err(group())?;
    scripts::tidy(names).query_async::<Value>(connection).await.map_err(group())?;
    let mut kind = redis::cmd("TYPE");
    let kind: String = kind
        .arg(&names.dead)
        .query_async(connection)
        .await
        .map_err(refused("dead_letters", &names.dead))?;
    if kind != "stream" && kind != "none" {
        let error = format!("it is a {kind}, and has to be a stream").into();
        let value = names.dead.clone();
        return Err(ConnectError::Refused { field: "dead_letters", value, error });
    }
    Ok(())
}
