//! Benchmarks of millpond and millpond-server; each is a program under `benches`.
