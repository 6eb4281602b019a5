//! What a file says of a server for HTTP.

#[cfg(not(feature = "http"))]
use serde::de::Error;
use serde::de::MapAccess;

use crate::config::kind::Kind;
#[cfg(feature = "http")]
use crate::config::table::{read, table};

#[cfg(feature = "http")]
table! {
    WebKeys {
        body_timeout: crate::config::value::Deadline,
        connect_info: crate::config::value::Flag,
    }
}

#[cfg(not(feature = "http"))]
#[derive(Debug, Clone, Default)]
pub(crate) struct WebKeys;

pub(crate) struct Web;

impl Kind for Web {
    type Value = WebKeys;
    const ACCEPTED: &'static str = "a table with `body_timeout` and `connect_info`";

    fn table<'de, A: MapAccess<'de>>(path: &str, map: A) -> Result<WebKeys, A::Error> {
        #[cfg(feature = "http")]
        return read(path, map);
        #[cfg(not(feature = "http"))]
        {
            drop(map);
            Err(A::Error::custom(format_args!("`{path}` takes the feature `http`")))
        }
    }
}
