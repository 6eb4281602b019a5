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
        park: parking::Parking,
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
    const ACCEPTED: &'static str = "a table with `park`, `body_timeout` and `connect_info`";

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

#[cfg(feature = "http")]
mod parking {
    use crate::config::kind::{Kind, Scalar};
    use crate::config::value::{Count, Period};
    use crate::http::Park;

    pub(crate) struct Parking;

    impl Kind for Parking {
        type Value = Park;
        const ACCEPTED: &'static str =
            "\"at-once\", a whole number of connections, or a text with units such as \"10s\"";

        fn scalar(written: Scalar<'_>) -> Option<Park> {
            match written {
                Scalar::Text("at-once") => Some(Park::AtOnce),
                Scalar::Text(_) => Period::scalar(written).map(Park::After),
                written => Count::scalar(written).map(Park::Warm),
            }
        }
    }
}
