//! The files of a certificate and its key.

use serde::de::{Error, MapAccess};

use crate::config::kind::{Kind, join};
use crate::config::table::{read, table};
use crate::config::value::File;

table! {
    TlsKeys {
        certificate: File,
        key: File,
    }
}

pub(crate) struct Tls;

impl Kind for Tls {
    type Value = TlsKeys;
    const ACCEPTED: &'static str = "a table with `certificate` and `key`";

    fn table<'de, A: MapAccess<'de>>(path: &str, map: A) -> Result<TlsKeys, A::Error> {
        if !cfg!(feature = "rustls") {
            return Err(A::Error::custom(format_args!("`{path}` takes the feature `rustls`")));
        }
        let keys: TlsKeys = read(path, map)?;
        for (key, file) in [("certificate", &keys.certificate), ("key", &keys.key)] {
            if file.is_none() {
                let path = join(path, key);
                return Err(A::Error::custom(format_args!("`{path}` is missing")));
            }
        }
        Ok(keys)
    }
}

#[cfg(feature = "rustls")]
mod load {
    use std::error::Error;
    use std::path::Path;
    use std::sync::Arc;

    use tokio_rustls::rustls::crypto::CryptoProvider;
    use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{ConfigBuilder, ServerConfig, WantsVerifier};

    use super::TlsKeys;
    use crate::StartError;
    use crate::config::kind::join;
    use crate::panic::catch;

    type Problem = Box<dyn Error + Send + Sync>;

    impl TlsKeys {
        pub(crate) fn load(&self, path: &str) -> Result<Arc<ServerConfig>, StartError> {
            let [certificate, key] =
                [&self.certificate, &self.key].map(|file| file.as_deref().unwrap_or(Path::new("")));
            let cannot = |setting: &str, file: &Path, error| StartError::File {
                setting: join(path, setting),
                file: file.to_owned(),
                error,
            };
            let chain = chain(certificate).map_err(|e| cannot("certificate", certificate, e))?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                cannot("key", key, told(error, "there is no private key in it"))
            })?;
            let builder = provided().map_err(|error| cannot("key", key, error))?;
            builder
                .with_no_client_auth()
                .with_single_cert(chain, secret)
                .map(Arc::new)
                .map_err(|error| cannot("key", key, error.into()))
        }
    }

    fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
        const NONE: &str = "there is no certificate in it";
        let certificates = CertificateDer::pem_file_iter(file).map_err(|e| told(e, NONE))?;
        let chain: Vec<_> = certificates.collect::<Result<_, _>>().map_err(|e| told(e, NONE))?;
        if chain.is_empty() { Err(NONE.into()) } else { Ok(chain) }
    }

    fn told(error: pem::Error, nothing: &str) -> Problem {
        match error {
            pem::Error::Io(error) => error.into(),
            pem::Error::NoItemsFound => nothing.into(),
            error => error.into(),
        }
    }

    /// rustls panics where it cannot tell which provider is meant.
    fn provided() -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, Problem> {
        match CryptoProvider::get_default() {
            Some(provider) => Ok(ServerConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()?),
            None => catch(ServerConfig::builder).ok_or_else(|| {
                "rustls has no provider: `CryptoProvider::install_default` sets one".into()
            }),
        }
    }
}
