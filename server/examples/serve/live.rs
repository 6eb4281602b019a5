//! The live line: what the servers hold.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use millpond_server::{Server, ServerConfig};

/// Prints a line each second. A terminal shows it in place.
pub async fn show(config: &ServerConfig, servers: &[Server]) {
    let (start, end) = if std::io::stdout().is_terminal() { ("\r\x1b[2K", "") } else { ("", "\n") };
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.tick().await;
    loop {
        seconds.tick().await;
        let parts: Vec<_> = config
            .servers()
            .iter()
            .zip(servers)
            .map(|(entry, server)| {
                let status = server.status();
                format!(
                    "{}: {} open, {} parked, {} refused, {} lines",
                    entry.name(),
                    status.open,
                    status.parked,
                    status.refused_full + status.refused_per_ip,
                    status.frames
                )
            })
            .collect();
        print!("{start}{}{end}", parts.join("  |  "));
        // Ignored: a closed pipe does not stop the servers.
        let _ = std::io::stdout().flush();
    }
}
