//! Compiles the protocol definitions, without a `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/gobgp.proto");
    let definitions = protox::compile(["proto/gobgp.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        // The password of a session is in there.
        .skip_debug(["api.PeerConf"])
        .compile_fds(definitions)?;
    Ok(())
}
