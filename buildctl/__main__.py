from buildctl.cli.program import main

main()
