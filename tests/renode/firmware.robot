*** Comments ***
Boots an image of this harness under renode-test, with Renode's tester of UARTs in the host's place. Files are made by
    python tests/renode/prepare.py FOLDER
    renode-test --variable FOLDER:FOLDER -r FOLDER tests/renode/firmware.robot
where FOLDER is an absolute path without spaces.

*** Settings ***
Library                     OperatingSystem

*** Variables ***
${FOLDER}                   ${CURDIR}/build
${UART}                     sysbus.usart3

*** Keywords ***
Boot
    Execute Command         mach create "nucleo-f746"
    Execute Command         machine LoadPlatformDescription @${FOLDER}/board.repl
    Execute Command         emulation SetGlobalQuantum "0.000010"
    Execute Command         sysbus LoadELF @${FOLDER}/firmware.elf
    Execute Command         sysbus.cpu VectorTableOffset 0x08000000
    Create Terminal Tester  ${UART}    timeout=10
    Start Emulation
    # An empty command is answered with m-ready: from then on the firmware listens.
    Write To Uart           %
    Wait For Line On Uart   m-ready

*** Test Cases ***
Should Say Its Name
    Boot
    Write To Uart           name%
    Wait For Line On Uart   m-name-dut-[nucleo-f746]
    Wait For Line On Uart   m-ready

Should Be The Build That Was Linked
    ${build}=               Get File    ${FOLDER}/build-id.txt
    Boot
    Write To Uart           build%
    Wait For Line On Uart   m-build-[${build}]
    Wait For Line On Uart   m-ready
