//! The servers that are programs of their own: how they are configured, and what installs them.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::CORES;

pub struct External {
    pub name: &'static str,
    pub install: &'static str,
    version: &'static str,
    config: fn(&Path, u16, &str) -> String,
    args: &'static [&'static str],
}

pub const ALL: [External; 3] = [
    External {
        name: "nginx",
        install: "apt-get install nginx-light",
        version: "-v",
        config: nginx,
        args: &["-c"],
    },
    External {
        name: "haproxy",
        install: "apt-get install haproxy",
        version: "-v",
        config: haproxy,
        args: &["-db", "-f"],
    },
    External {
        name: "h2o",
        install: "apt-get install h2o",
        version: "--version",
        config: h2o,
        args: &["-c"],
    },
];

fn nginx(folder: &Path, port: u16, kind: &str) -> String {
    let folder = folder.display();
    let listen = match kind {
        "tls" => " ssl",
        "h2" => " http2",
        _ => "",
    };
    format!(
        "daemon off; worker_processes 1; worker_rlimit_nofile 19000; pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 18000; }}
http {{
  access_log off; keepalive_timeout 3600; keepalive_requests 1000000000;
  client_body_temp_path {folder}; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
  server {{
    listen 127.0.0.1:{port} backlog=8192{listen};
    location ~ ^/(.*)$ {{ default_type application/json; return 200 '{{\"id\":\"$1\"}}'; }}
  }}
}}
"
    )
}

fn haproxy(folder: &Path, port: u16, kind: &str) -> String {
    let bind = match kind {
        "tls" => format!(" ssl crt {}/both.pem", folder.display()),
        "h2" => " proto h2".to_owned(),
        _ => String::new(),
    };
    format!(
        "global
  maxconn 9000
  nbthread 1
defaults
  mode http
  timeout client 1h
  timeout server 1h
  timeout connect 5s
  timeout http-request 1h
  timeout http-keep-alive 1h
frontend all
  bind 127.0.0.1:{port}{bind} backlog 8192
  http-request return status 200 content-type application/json lf-string {{\\\"id\\\":\\\"%[path,regsub(^/,)]\\\"}}
"
    )
}

fn h2o(folder: &Path, port: u16, kind: &str) -> String {
    let folder = folder.display();
    let ssl = match kind {
        "tls" => format!(
            "\n  ssl:\n    certificate-file: {folder}/cert.pem\n    key-file: {folder}/key.pem
    ocsp-update-interval: 0"
        ),
        _ => String::new(),
    };
    format!(
        "num-threads: 1
max-connections: 18000
http1-request-timeout: 3600
http2-idle-timeout: 3600
user: root
error-log: {folder}/h2o.log
listen:
  host: 127.0.0.1
  port: {port}{ssl}
hosts:
  default:
    paths:
      /:
        mruby.handler: |
          Proc.new do |env|
            [200, {{\"content-type\" => \"application/json\"}}, [\"{{\\\"id\\\":\\\"#{{env[\"PATH_INFO\"][1..-1]}}\\\"}}\"]]
          end
"
    )
}

/// A running program. The drop asks it to end, and waits.
pub struct Program {
    child: Child,
    pub port: u16,
}

impl Drop for Program {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        for _ in 0..300 {
            if self.child.try_wait().is_ok_and(|end| end.is_some()) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl External {
    /// The version, or none if the program is not installed.
    pub fn version(&self) -> Option<String> {
        let told = Command::new(self.name).arg(self.version).output().ok()?;
        let told = [told.stdout, told.stderr].concat();
        let line = String::from_utf8_lossy(&told).lines().next()?.to_owned();
        line.split([' ', '/', '-']).find(|word| word.contains('.')).map(str::to_owned)
    }

    pub fn start(&self, folder: &Path, kind: &str) -> Result<Program, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.name);
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = free.map_err(failed)?.port();
        let config = folder.join(format!("{}.conf", self.name));
        std::fs::write(&config, (self.config)(folder, port, kind)).map_err(failed)?;
        let child = Command::new("taskset")
            .args(["-c", &CORES[0].to_string(), self.name])
            .args(self.args)
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let program = Program { child, port };
        for _ in 0..500 {
            if TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok() {
                return Ok(program);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(format!("{} does not listen: see {}", self.name, config.display()))
    }
}

impl Program {
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}
