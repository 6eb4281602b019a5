//! What an HTTP server cannot serve.

use millpond_server::http::{Server, serve};

pub fn no_service() {
    drop(Server::builder().serve("hello")); //~ an HTTP server cannot serve `&str`
    //~^ not a service of HTTP requests
    drop(serve("127.0.0.1:0", 5)); //~ an HTTP server cannot serve `{integer}`
    //~^ not a service of HTTP requests
}
