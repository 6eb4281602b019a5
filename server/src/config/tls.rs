//! The files of a certificate and its key.

#[cfg(feature = "rustls")]
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::config::located::HERE;
use crate::config::values::File;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, expecting = "a table with `certificate` and `key`")]
struct Keys {
    certificate: Option<File>,
    key: Option<File>,
}

/// The table `tls` of a server; both files are named.
#[derive(Debug, Clone)]
pub(crate) struct Tls(Keys);

impl<'de> Deserialize<'de> for Tls {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let keys = Keys::deserialize(from)?;
        if !cfg!(feature = "rustls") {
            return Err(D::Error::custom(format_args!("`{HERE}` takes the feature `rustls`")));
        }
        for (key, file) in [("certificate", &keys.certificate), ("key", &keys.key)] {
            if file.is_none() {
                return Err(D::Error::custom(format_args!("`{HERE}{key}` is missing")));
            }
        }
        Ok(Self(keys))
    }
}

impl Tls {
    /// The paths of the certificate and of its key.
    #[cfg(feature = "rustls")]
    fn files(&self) -> [&Path; 2] {
        [&self.0.certificate, &self.0.key]
            .map(|file| file.as_ref().map_or(Path::new(""), |File(path)| path))
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

    use super::Tls;
    use crate::StartError;
    use crate::panic::catch;

    type Problem = Box<dyn Error + Send + Sync>;

    impl Tls {
        /// Reads the files. Errors name them, and their keys in the `table`.
        pub(crate) fn load(&self, table: &str) -> Result<Arc<ServerConfig>, StartError> {
            let [certificate, key] = self.files();
            let cannot = |setting: &str, file: &Path, error| StartError::File {
                setting: format!("{table}.{setting}"),
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
