//! What a program must not drop of a server.
#![warn(unused_must_use)]

use std::time::Duration;

use millpond_server::{Listen, Server, http};

pub async fn servers(http: http::Server) {
    Server::builder(); //~ a builder does nothing until `serve` or `handle`
    http::Server::builder(); //~ a builder does nothing until `serve`
    Listen::unix("echo.sock"); //~ a `Listen` does nothing until a server that has it starts
    http.shutdown(Duration::ZERO).await; //~ tell whether the connections could finish
}
