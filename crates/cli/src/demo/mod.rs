pub(crate) async fn run(_: &crate::args::DemoArgs) -> anyhow::Result<()> {
    anyhow::bail!("demo")
}
