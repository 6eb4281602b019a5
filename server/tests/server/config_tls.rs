//! Certificates and keys that a configuration names.

use std::convert::Infallible;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::*;
use millpond_server::{Mode, ServerEntry, StartError};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::codec::LinesCodec;

fn issued() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["localhost".into()]).unwrap()
}

fn written(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn entry(certificate: &Path, key: &Path, mode: &str) -> ServerEntry {
    let tls = format!("certificate = {certificate:?}\nkey = {key:?}");
    toml::from_str(&format!("listen = '127.0.0.1:0'\nmode = '{mode}'\n[tls]\n{tls}")).unwrap()
}

#[test]
fn connections_are_secured_in_both_modes() {
    multi(2, async {
        let issued = issued();
        let certificate = written("good.pem", &issued.cert.pem());
        let key = written("good.key", &issued.signing_key.serialize_pem());
        let mut roots = RootCertStore::empty();
        roots.add(issued.cert.der().clone()).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(client));
        for (name, mode) in [("dedicated", Mode::Dedicated), ("event-driven", Mode::EventDriven)] {
            let entry = entry(&certificate, &key, name);
            assert_eq!(entry.mode(), mode);
            let echo = tower::service_fn(|line: String| async { Ok::<_, Infallible>(Some(line)) });
            let builder = entry.builder().unwrap();
            let server = builder.codec(LinesCodec::new()).serve(echo).unwrap();
            let stream = tokio::net::TcpStream::connect(server.local_addrs()[0]).await.unwrap();
            let name = "localhost".try_into().unwrap();
            let mut stream = soon(connector.connect(name, stream)).await.unwrap();
            stream.write_all(b"secret\n").await.unwrap();
            let mut answer = [0; 7];
            soon(stream.read_exact(&mut answer)).await.unwrap();
            assert_eq!(&answer, b"secret\n");
        }
    });
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let issued = issued();
    let certificate = &written("c.pem", &issued.cert.pem());
    let key = &written("k.pem", &issued.signing_key.serialize_pem());
    let others = &written("others.pem", &self::issued().signing_key.serialize_pem());
    let empty = &written("empty.pem", "");
    let missing = Path::new("/nonexistent/x.pem");
    let cases = [
        (missing, &**key, "tls.certificate", missing, "No such file or directory (os error 2)"),
        (empty, key, "tls.certificate", empty, "there is no certificate in it"),
        (key, key, "tls.certificate", key, "there is no certificate in it"),
        (certificate, missing, "tls.key", missing, "No such file or directory (os error 2)"),
        (certificate, empty, "tls.key", empty, "there is no private key in it"),
        (certificate, certificate, "tls.key", certificate, "there is no private key in it"),
        (certificate, others, "tls.key", others, "keys may not be consistent: KeyMismatch"),
    ];
    for (certificate, key, setting, file, expected) in cases {
        let error = entry(certificate, key, "dedicated").builder().unwrap_err();
        let text = format!("cannot use {} as `{setting}`: {expected}", file.display());
        assert_eq!(error.to_string(), text);
        assert_eq!(error.source().unwrap().to_string(), expected);
        assert!(matches!(error, StartError::File { file: named, .. } if named == file));
    }
}

#[test]
fn both_files_are_needed() {
    let text = "listen = 'a:1'\ntls = { certificate = 'x' }";
    let error = toml::from_str::<ServerEntry>(text).unwrap_err();
    assert_eq!(error.message(), "`tls.key` is missing");
    let text = "listen = 'a:1'\ntls = { key = 'x' }";
    let error = toml::from_str::<ServerEntry>(text).unwrap_err();
    assert_eq!(error.message(), "`tls.certificate` is missing");
    let error = toml::from_str::<ServerEntry>("listen = 'a:1'\ntls = { cert = 'x' }").unwrap_err();
    assert_eq!(error.message(), "there is no key `tls.cert`: accepted are certificate, key");
}
