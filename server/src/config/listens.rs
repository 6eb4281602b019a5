//! Where to listen: one address or several, each alone or with settings of its own.

use std::fmt;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::config::located::{HERE, table};
use crate::config::refused_setting;
use crate::config::values::{Deadline, Flag, Number, Text};
use crate::{Listen, Mode};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListenKeys {
    address: Option<Text>,
    mode: Option<Mode>,
    use_netpoll_mode: Option<Flag>,
    backlog: Option<Number>,
    reuse_port: Option<Flag>,
    nodelay: Option<Flag>,
    keepalive: Option<Deadline>,
}

impl ListenKeys {
    pub(crate) fn address(&self) -> &str {
        self.address.as_ref().map_or("", |Text(address)| address)
    }

    pub(crate) fn mode(&self) -> Option<Mode> {
        self.mode
    }

    pub(crate) fn listen(&self) -> Listen {
        let mut listen = Listen::from(self.address());
        if let Some(mode) = self.mode {
            listen = listen.mode(mode);
        }
        if let Some(Number(backlog)) = self.backlog {
            listen = listen.backlog(backlog);
        }
        if let Some(Flag(reuse)) = self.reuse_port {
            listen = listen.reuse_port(reuse);
        }
        if let Some(Flag(nodelay)) = self.nodelay {
            listen = listen.nodelay(nodelay);
        }
        if let Some(Deadline(keepalive)) = self.keepalive {
            listen = listen.keepalive(keepalive);
        }
        listen
    }

    /// Checks what the builder would refuse. `address` names the key of the address, in an error.
    fn check<E: Error>(&self, address: &str) -> Result<(), E> {
        self.listen().check().map_err(|error| {
            let key = if error.field() == "listen" { address } else { error.field() };
            refused_setting(key, &error, "\"never\"")
        })
    }
}

/// Returns the mode, where both keys for it agree.
pub(crate) fn agreed<E: Error>(
    mode: Option<Mode>,
    netpoll: &Option<Flag>,
) -> Result<Option<Mode>, E> {
    let Some(Flag(flag)) = *netpoll else { return Ok(mode) };
    let meant = if flag { Mode::EventDriven } else { Mode::Dedicated };
    if mode.is_some_and(|mode| mode != meant) {
        return Err(E::custom(format_args!(
            "`{HERE}mode` and `{HERE}use_netpoll_mode` contradict each other: {flag} stands for \
             \"{meant}\""
        )));
    }
    Ok(Some(meant))
}

/// One address, or one table.
struct One(ListenKeys);

impl<'de> Deserialize<'de> for One {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneVisitor;

        impl<'de> Visitor<'de> for OneVisitor {
            type Value = One;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a table with one")
            }

            fn visit_str<E: Error>(self, address: &str) -> Result<One, E> {
                let address = Some(Text(address.into()));
                Ok(One(ListenKeys { address, ..ListenKeys::default() }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<One, A::Error> {
                let mut keys: ListenKeys = table(map)?;
                if keys.address.is_none() {
                    return Err(A::Error::custom(format_args!("`{HERE}address` is missing")));
                }
                keys.mode = agreed(keys.mode, &keys.use_netpoll_mode)?;
                keys.check("address")?;
                Ok(One(keys))
            }
        }

        let one = from.deserialize_any(OneVisitor)?;
        one.0.check("")?;
        Ok(one)
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Listens(pub(crate) Vec<ListenKeys>);

impl<'de> Deserialize<'de> for Listens {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ListensVisitor;

        impl<'de> Visitor<'de> for ListensVisitor {
            type Value = Listens;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, a table with one, or a list of these")
            }

            fn visit_str<E: Error>(self, address: &str) -> Result<Listens, E> {
                let address = Some(Text(address.into()));
                Ok(Listens(vec![ListenKeys { address, ..ListenKeys::default() }]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Listens, A::Error> {
                let One(keys) = One::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Listens(vec![keys]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Listens, A::Error> {
                let list = Vec::<One>::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(Listens(list.into_iter().map(|One(keys)| keys).collect()))
            }
        }

        let listens = from.deserialize_any(ListensVisitor)?;
        listens.0.iter().try_for_each(|keys| keys.check(""))?;
        Ok(listens)
    }
}
