module millpond/benches/go

go 1.24

require (
	github.com/alitto/pond/v2 v2.5.0
	github.com/panjf2000/ants/v2 v2.11.3
)

require golang.org/x/sync v0.11.0 // indirect
