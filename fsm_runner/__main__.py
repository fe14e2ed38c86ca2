from fsm_runner.cli import main

main()
