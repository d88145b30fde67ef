# VMSnapshot: Kluis' part in a Windows guest, called by the host through the guest agent as SYSTEM.
# Its rules: docs/design/windows.md. It answers JSON in base64, so that neither the guest's language
# nor its code page matters.
#
#   inspect                  what decides how VSS is asked for an instant
#   apply START OPTION       START: 2 or keep; OPTION: 5, restore or keep; every change is noted first
#   writers                  what vssadmin says of the writers
#   note STATUS ERROR        what the backup came to; ERROR is base64 of UTF-8, or -
#   undo                     gives back everything that apply changed
param(
    [Parameter(Mandatory = $true)][string]$Verb,
    [string]$First = '',
    [string]$Second = ''
)

$version = '1.0'
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'

$services = 'HKLM:\SYSTEM\CurrentControlSet\Services'
# The agent reads from this key, at each freeze, which kind of backup it asks VSS for.
$agentKey = "$services\QEMU Guest Agent VSS Provider"
$providerKey = "$services\VSS\Providers\{3629d4ed-ee09-4e0e-9a5c-6d8ba2872aef}"
$copyKey = 'HKLM:\SOFTWARE\Microsoft\BcdrAgent'
$statePath = Join-Path $PSScriptRoot 'state.json'
$startNames = @{ 2 = 'Automatic'; 3 = 'Manual'; 4 = 'Disabled' }
# A vssadmin that hangs is ended, so that nothing of a backup lives on.
$vssadminTimeoutMs = 20000

function Read-Value([string]$Key, [string]$Name) {
    if (-not (Test-Path -LiteralPath $Key)) { return $null }
    return (Get-Item -LiteralPath $Key).GetValue($Name, $null)
}

function Read-Text([string]$Key, [string]$Name) {
    $value = Read-Value $Key $Name
    if ($value -is [string]) { return $value }
    return $null
}

function Read-State {
    if (Test-Path -LiteralPath $statePath) {
        return (Get-Content -LiteralPath $statePath -Raw -Encoding UTF8 | ConvertFrom-Json)
    }
    return (New-Object psobject -Property @{
        start = $null; option = $null; status = $null; error = $null; at = $null
    })
}

function Write-State($State) {
    $part = "$statePath.part"
    ConvertTo-Json -InputObject $State -Depth 4 | Set-Content -LiteralPath $part -Encoding UTF8
    Move-Item -LiteralPath $part -Destination $statePath -Force
}

function Send-Answer($Value) {
    $json = ConvertTo-Json -InputObject $Value -Depth 4 -Compress
    [Console]::Out.Write([Convert]::ToBase64String([Text.Encoding]::UTF8.GetBytes($json)))
}

function Set-Start([int]$Start) {
    Set-Service -Name 'VSS' -StartupType $startNames[$Start]
}

function Set-Option($Option) {
    if ($null -eq $Option) {
        Remove-ItemProperty -LiteralPath $agentKey -Name 'VssOption'
    } else {
        if (-not (Test-Path -LiteralPath $agentKey)) { New-Item -Path $agentKey -Force | Out-Null }
        New-ItemProperty -LiteralPath $agentKey -Name 'VssOption' -PropertyType DWord -Value $Option -Force | Out-Null
    }
}

# Gives the option back only where it still is what Kluis set: what others set since is theirs.
function Restore-Option($State) {
    if ($null -eq $State.option) { return }
    if ((Read-Value $agentKey 'VssOption') -eq $State.option.after) { Set-Option $State.option.before }
    $State.option = $null
    Write-State $State
}

function Invoke-Inspect {
    Send-Answer @{
        provider = (Test-Path -LiteralPath $providerKey)
        start = (Read-Value "$services\VSS" 'Start')
        option = (Read-Value $agentKey 'VssOption')
        own = (Read-State).option
        copy = (Read-Text $copyKey 'USEVSSCOPYBACKUP')
    }
}

function Invoke-Apply([string]$Start, [string]$Option) {
    $state = Read-State
    if ($Start -ne 'keep') {
        if ($null -eq $state.start) {
            $state.start = @{ before = (Read-Value "$services\VSS" 'Start'); after = [int]$Start }
            Write-State $state
        }
        Set-Start ([int]$Start)
    }
    if ($Option -eq 'restore') {
        Restore-Option $state
    } elseif ($Option -ne 'keep') {
        if ($null -eq $state.option) {
            $state.option = @{ before = (Read-Value $agentKey 'VssOption'); after = [int]$Option }
            Write-State $state
        }
        Set-Option ([int]$Option)
    }
    Invoke-Inspect
}

function Invoke-Writers {
    $start = New-Object Diagnostics.ProcessStartInfo
    $start.FileName = Join-Path $env:SystemRoot 'System32\vssadmin.exe'
    $start.Arguments = 'list writers'
    $start.UseShellExecute = $false
    $start.CreateNoWindow = $true
    $start.RedirectStandardOutput = $true
    $process = [Diagnostics.Process]::Start($start)
    $reading = $process.StandardOutput.ReadToEndAsync()
    if (-not $process.WaitForExit($vssadminTimeoutMs)) {
        $process.Kill()
        throw 'vssadmin did not end'
    }
    Send-Answer @{ exit = $process.ExitCode; text = $reading.Result }
}

function Invoke-Note([string]$Status, [string]$Reason) {
    $state = Read-State
    $state.status = $Status
    $state.error = $null
    if ($Reason -ne '-') {
        $state.error = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($Reason))
    }
    $state.at = [DateTime]::UtcNow.ToString('yyyy-MM-ddTHH:mm:ssZ', [Globalization.CultureInfo]::InvariantCulture)
    Write-State $state
}

function Invoke-Undo {
    $state = Read-State
    Restore-Option $state
    if ($null -ne $state.start) {
        if ((Read-Value "$services\VSS" 'Start') -eq $state.start.after) { Set-Start ([int]$state.start.before) }
        $state.start = $null
        Write-State $state
    }
}

switch ($Verb) {
    'inspect' { Invoke-Inspect }
    'apply' { Invoke-Apply $First $Second }
    'writers' { Invoke-Writers }
    'note' { Invoke-Note $First $Second }
    'undo' { Invoke-Undo }
    default { throw "the extension knows no $Verb" }
}
