//! A port alone is no address.

use millpond_server::Server;

pub fn a_port() {
    drop(Server::builder().listen(8080)); //~ a server cannot listen at `{integer}`
    //~^ neither an address nor a listener
}
