//! Where to listen: one address or several, each alone or with settings of its own.

use serde::de::{Error, MapAccess, SeqAccess};

use crate::config::kind::{Kind, Scalar, each, join};
use crate::config::table::{read, table};
use crate::config::value::{Backlog, Deadline, Flag, Text};
use crate::{Listen, Mode};

table! {
    ListenKeys {
        address: Text,
        mode: Mode,
        use_netpoll_mode: Flag,
        backlog: Backlog,
        reuse_port: Flag,
        nodelay: Flag,
        keepalive: Deadline,
    }
}

impl ListenKeys {
    pub(crate) fn listen(&self) -> Listen {
        let mut listen = Listen::from(self.address.as_deref().unwrap_or_default());
        if let Some(mode) = self.mode {
            listen = listen.mode(mode);
        }
        if let Some(backlog) = self.backlog {
            listen = listen.backlog(backlog);
        }
        if let Some(reuse) = self.reuse_port {
            listen = listen.reuse_port(reuse);
        }
        if let Some(nodelay) = self.nodelay {
            listen = listen.nodelay(nodelay);
        }
        if let Some(keepalive) = self.keepalive {
            listen = listen.keepalive(keepalive);
        }
        listen
    }
}

/// The mode, where both ways to give it agree.
pub(crate) fn agreed(
    path: &str,
    mode: Option<Mode>,
    netpoll: Option<bool>,
) -> Result<Option<Mode>, String> {
    let Some(flag) = netpoll else { return Ok(mode) };
    let (meant, name) = match flag {
        true => (Mode::EventDriven, "event-driven"),
        false => (Mode::Dedicated, "dedicated"),
    };
    if mode.is_some_and(|mode| mode != meant) {
        let [mode, netpoll] = ["mode", "use_netpoll_mode"].map(|key| join(path, key));
        return Err(format!(
            "`{mode}` and `{netpoll}` contradict each other: {flag} stands for \"{name}\""
        ));
    }
    Ok(Some(meant))
}

struct One;

impl Kind for One {
    type Value = ListenKeys;
    const ACCEPTED: &'static str = "an address, or a table with one";

    fn scalar(written: Scalar<'_>) -> Option<ListenKeys> {
        let address = Some(Text::scalar(written)?);
        Some(ListenKeys { address, ..ListenKeys::default() })
    }

    fn table<'de, A: MapAccess<'de>>(path: &str, map: A) -> Result<ListenKeys, A::Error> {
        let mut keys: ListenKeys = read(path, map)?;
        if keys.address.is_none() {
            return Err(A::Error::custom(format_args!("`{path}.address` is missing")));
        }
        keys.mode = agreed(path, keys.mode, keys.use_netpoll_mode).map_err(A::Error::custom)?;
        Ok(keys)
    }
}

pub(crate) struct Listens;

impl Kind for Listens {
    type Value = Vec<ListenKeys>;
    const ACCEPTED: &'static str = "an address, a table with one, or a list of these";

    fn scalar(written: Scalar<'_>) -> Option<Self::Value> {
        One::scalar(written).map(|one| vec![one])
    }

    fn table<'de, A: MapAccess<'de>>(path: &str, map: A) -> Result<Self::Value, A::Error> {
        One::table(path, map).map(|one| vec![one])
    }

    fn list<'de, A: SeqAccess<'de>>(path: &str, list: A) -> Result<Self::Value, A::Error> {
        each::<One, A>(path, list)
    }
}
