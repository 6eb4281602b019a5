//! Certificates and keys that a configuration names.

use std::convert::Infallible;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::*;
use millpond_server::{Mode, ServerEntry, StartError};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedKey, IsCa, Issuer, KeyPair,
    generate_simple_self_signed,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
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
            let echo = server::service_fn(|line: String| async { Ok::<_, Infallible>(Some(line)) });
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

/// A certificate that `ca` issued, with its key.
fn issued_by(ca: &Issuer<'_, KeyPair>, name: &str) -> (Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    (params.signed_by(&key, ca).unwrap(), key)
}

fn authority() -> (Certificate, Issuer<'static, KeyPair>) {
    let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.self_signed(&key).unwrap(), Issuer::new(params, key))
}

/// Connects and sends a line. Returns the server's certificate, or none if the server refused.
async fn asks(
    server: &millpond_server::Server,
    config: &ClientConfig,
) -> Option<CertificateDer<'static>> {
    let stream = tokio::net::TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config.clone()));
    let mut stream = soon(connector.connect("localhost".try_into().unwrap(), stream)).await.ok()?;
    stream.write_all(b"secret\n").await.ok()?;
    let mut answer = [0; 7];
    // A client learns of a refused certificate after its handshake.
    soon(stream.read_exact(&mut answer)).await.ok()?;
    Some(stream.get_ref().1.peer_certificates()?[0].clone().into_owned())
}

#[test]
fn clients_need_a_certificate() {
    multi(2, async {
        let (ca, issuer) = authority();
        let (certificate, key) = issued_by(&issuer, "localhost");
        let (client, client_key) = issued_by(&issuer, "a client");
        let others = issued();
        let files = [
            written("mutual.pem", &certificate.pem()),
            written("mutual.key", &key.serialize_pem()),
            written("mutual_ca.pem", &ca.pem()),
        ];
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let builder = || ClientConfig::builder().with_root_certificates(roots.clone());
        let key = |key: &KeyPair| PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let known =
            builder().with_client_auth_cert(vec![client.der().clone()], key(&client_key)).unwrap();
        let unknown = builder()
            .with_client_auth_cert(vec![others.cert.der().clone()], key(&others.signing_key))
            .unwrap();
        let none = builder().with_no_client_auth();
        for (mode, auth, is_optional) in [
            ("dedicated", "", false),
            ("event-driven", "", false),
            ("event-driven", "client_auth = 'required'", false),
            ("dedicated", "client_auth = 'optional'", true),
        ] {
            let [certificate, key, ca] = &files;
            let entry: ServerEntry = toml::from_str(&format!(
                "listen = '127.0.0.1:0'\nmode = '{mode}'\n[tls]\ncertificate = {certificate:?}\n\
                 key = {key:?}\nclient_ca = {ca:?}\n{auth}"
            ))
            .unwrap();
            let server = crate::support::server::echo(entry.builder().unwrap());
            assert!(asks(&server, &known).await.is_some(), "{mode} {auth}");
            assert!(asks(&server, &unknown).await.is_none(), "{mode} {auth}");
            assert_eq!(asks(&server, &none).await.is_some(), is_optional, "{mode} {auth}");
        }
    });
}

#[test]
fn a_renewed_certificate_needs_no_restart() {
    multi(2, async {
        for mode in ["dedicated", "event-driven"] {
            let (old, new) = (issued(), issued());
            let [certificate, key] = ["renewed.pem", "renewed.key"].map(|name| written(name, ""));
            let write = |made: &CertifiedKey<KeyPair>| {
                std::fs::write(&certificate, made.cert.pem()).unwrap();
                std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
            };
            write(&old);
            let mut roots = RootCertStore::empty();
            roots.add(old.cert.der().clone()).unwrap();
            roots.add(new.cert.der().clone()).unwrap();
            let client =
                ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
            let entry = entry(&certificate, &key, mode);
            let server = crate::support::server::echo(entry.builder().unwrap());
            assert_eq!(asks(&server, &client).await.as_ref(), Some(old.cert.der()));
            write(&new);
            assert_eq!(asks(&server, &client).await.as_ref(), Some(old.cert.der()));
            server.reload_tls(entry.tls().unwrap().unwrap()).unwrap();
            assert_eq!(asks(&server, &client).await.as_ref(), Some(new.cert.der()), "{mode}");
            // A file that cannot be used is an error, and the server keeps what it has.
            std::fs::write(&key, "").unwrap();
            assert!(entry.tls().is_err());
            assert!(asks(&server, &client).await.is_some());
            let plain = crate::support::server::DEDICATED.echo();
            let error = plain.reload_tls(crate::support::server::tls::server()).unwrap_err();
            assert_eq!(error.field(), "tls");
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
    let text = "listen = 'a:1'\ntls = { certificate = 'x', key = 'y', client_auth = 'required' }";
    let error = toml::from_str::<ServerEntry>(text).unwrap_err();
    assert!(error.message().starts_with("`tls.client_ca` is missing"), "{}", error.message());
    let error = toml::from_str::<ServerEntry>("listen = 'a:1'\ntls = { cert = 'x' }").unwrap_err();
    assert_eq!(
        error.message(),
        "there is no key `tls.cert`: accepted are certificate, key, client_ca, client_auth"
    );
}
