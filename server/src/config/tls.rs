//! The files of a certificate and its key, and of the certificates that clients' certificates need.

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
    client_ca: Option<File>,
    client_auth: Option<ClientAuth>,
}

/// Whether a client must have a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ClientAuth {
    Required,
    Optional,
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
        if keys.client_auth.is_some() && keys.client_ca.is_none() {
            return Err(D::Error::custom(format_args!(
                "`{HERE}client_ca` is missing: `{HERE}client_auth` takes certificates to trust"
            )));
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
    use tokio_rustls::rustls::server::WebPkiClientVerifier;
    use tokio_rustls::rustls::server::danger::ClientCertVerifier;
    use tokio_rustls::rustls::{RootCertStore, ServerConfig};

    use super::{ClientAuth, Tls};
    use crate::StartError;
    use crate::config::values::File;
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
            let provider = provider().map_err(|error| cannot("key", key, error))?;
            let builder = ServerConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .map_err(|error| cannot("key", key, error.into()))?;
            let builder = match &self.0.client_ca {
                None => builder.with_no_client_auth(),
                Some(File(file)) => builder.with_client_cert_verifier(
                    self.client_verifier(file, provider)
                        .map_err(|error| cannot("client_ca", file, error))?,
                ),
            };
            builder
                .with_single_cert(chain, secret)
                .map(Arc::new)
                .map_err(|error| cannot("key", key, error.into()))
        }
    }

    impl Tls {
        /// Trusts the certificates of a file as issuers of client certificates.
        fn client_verifier(
            &self,
            file: &Path,
            provider: Arc<CryptoProvider>,
        ) -> Result<Arc<dyn ClientCertVerifier>, Problem> {
            let mut roots = RootCertStore::empty();
            for certificate in chain(file)? {
                roots.add(certificate)?;
            }
            let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let builder = match self.0.client_auth {
                Some(ClientAuth::Optional) => builder.allow_unauthenticated(),
                Some(ClientAuth::Required) | None => builder,
            };
            Ok(builder.build()?)
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
    fn provider() -> Result<Arc<CryptoProvider>, Problem> {
        if let Some(provider) = CryptoProvider::get_default() {
            return Ok(provider.clone());
        }
        let config = catch(ServerConfig::builder);
        let provider = config.map(|config| config.crypto_provider().clone());
        provider.ok_or_else(|| {
            "rustls has no provider: `CryptoProvider::install_default` sets one".into()
        })
    }
}
